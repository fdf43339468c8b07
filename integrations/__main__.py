"""Tries programs that take an optimizer, each in a virtual environment of its own.

    python -m integrations [NAME ...]     all that are here; needs `uv`

A program's module begins with what to install (inline script metadata, PEP 723). The
results go into the table of docs/integrations/index.md, a row for each program tried.
"""

import argparse
import datetime
import importlib
import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tempfile
import tomllib
import traceback
from pathlib import Path

ROOT = Path(__file__).parent.parent
TABLE = ROOT / "docs" / "integrations" / "index.md"
METADATA = re.compile(r"^# /// script\n(.*?)^# ///$", re.S | re.M)
NAMES = sorted(
    path.stem for path in TABLE.parent.glob("*.md") if path.stem != TABLE.stem
)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m integrations")
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.inside:
        (name,) = args.names
        print(json.dumps(try_program(name)))
        return 0
    failed = [name for name in args.names or NAMES if not run_program(name)]
    print(f"failed: {', '.join(failed)}" if failed else "all passed")
    return bool(failed)


def run_program(name: str) -> bool:
    """Installs a program, tries it in a process, and writes its row."""
    print(f"{name} ...", flush=True)
    venv = ROOT / ".venv-integrations" / name
    python = venv / "bin" / "python"
    install = [*dependencies(name), "--editable", str(ROOT)]
    for command in (
        ["uv", "venv", "--quiet", "--clear", "--python", sys.executable, str(venv)],
        ["uv", "pip", "install", "--quiet", "--python", str(python), *install],
    ):
        subprocess.run(command, check=True)
    command = [str(python), "-m", "integrations", "--inside", name]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        return False
    results = json.loads(done.stdout.splitlines()[-1])
    write_row(name, results)
    return "no" not in results


def dependencies(name: str) -> list[str]:
    found = METADATA.search((ROOT / "integrations" / f"{name}.py").read_text())
    assert found, f"{name}.py does not say what to install"
    lines = (line.removeprefix("#").strip() for line in found[1].splitlines())
    return tomllib.loads("\n".join(lines))["dependencies"]


def try_program(name: str) -> list[str]:
    """Version, results of the checks and date, in a folder that is then deleted."""
    from .checks import CHECKS

    version = importlib.metadata.version(
        re.split(r"[^\w-]", dependencies(name)[0], maxsplit=1)[0]
    )
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        program = importlib.import_module(f"integrations.{name}")
        results = []
        for letter, check in CHECKS.items():
            path = Path(folder, letter)
            path.mkdir()
            try:
                check(program.Run, path)
                results.append("yes")
            except Exception:
                traceback.print_exc()
                results.append("no")
        os.chdir(ROOT)
    return [version, *results, datetime.date.today().isoformat()]


def write_row(name: str, results: list[str]) -> None:
    text = TABLE.read_text()
    row = rf"(\| \[.*\]\({name}\.md\) \|).*"
    cells = "".join(f" {cell} |" for cell in results)
    text, count = re.subn(row, rf"\g<1>{cells}", text)
    assert count == 1, f"one row for {name} in {TABLE}"
    TABLE.write_text(text)


if __name__ == "__main__":
    sys.exit(main())
