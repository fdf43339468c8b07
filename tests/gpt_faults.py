"""Nothing lost: kills, corruptions and malformed commands, counted.

    python -m tests.gpt_faults                      everything, 5 to 9 minutes
    python -m tests.gpt_faults --only corruptions   or kills, or commands
    python -m tests.gpt_faults --seed 1             other moments, bits and mutations

Runs of `examples.gpt` with a tiny model. *Kills*: tokens, a trunk on them, its cooldown
and a merge are killed by SIGKILL again and again, each time started anew, and must end
with the files, checkpoints and metrics of what nobody disturbed, bit for bit.
*Corruptions*: files of a finished run are damaged; each step must be refused or come
back true, and the run's command must refuse or end with the true weights. *Commands*: a
mistake in a command must end it with code 2 and a sentence, and write nothing. Exits
with 1 if anything was lost.
"""

import contextlib
import io
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import tyro

from benchmarks.programs import print_table, versions
from examples.gpt.__main__ import main as gpt
from examples.gpt.checkpoints import Checkpoints
from examples.gpt.config import UserError
from examples.gpt.progress import read_metrics
from examples.gpt.runs import open_checkpoints, read_manifest
from examples.gpt.trainer import make_trainer
from tests.gpt_tiny import TINY, state_of, write_text


def train(out: Path, text: Path, steps: int, *more: str) -> list[str]:
    options = ["--data", str(text), "--steps", str(steps), "--snapshot-every", "8"]
    return ["train", "--out", str(out), *TINY, *options, *more]


def cooldown(trunk: Path, at: int, steps: int, out: Path) -> list[str]:
    branch = ["--from", f"{trunk}@{at}", "--steps", str(steps)]
    return ["cooldown", *branch, "--out", str(out)]


def tokenize(text: Path, out: Path, *more: str) -> list[str]:
    return ["tokenize", "--data", str(text), "--out", str(out), *more]


def call(command: list[str]) -> tuple[int, str]:
    """Runs a command in this process; returns its exit code and all it printed."""
    said = io.TextIOWrapper(io.BytesIO(), errors="replace")
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            code = gpt(command)
        except SystemExit as exit:  # how the argument parser leaves
            code = int(exit.code or 0)
        except BaseException:
            traceback.print_exc(file=said)
            code = 1
    said.seek(0)
    return code, said.read()


def must(command: list[str]) -> None:
    code, said = call(command)
    if code != 0:
        raise SystemExit(said)


def title(function: Callable[..., Any]) -> str:
    return (function.__doc__ or "").rstrip(".")


def states(folder: Path) -> dict[int, Any]:
    """The verified states of all steps of a run."""
    steps = Checkpoints(folder / "checkpoints").steps()
    return {step: state(folder, step) for step in steps}


def state(folder: Path, step: int) -> Any:
    return state_of(folder, read_manifest(folder)["config"], step)


def same(first: Any, second: Any) -> bool:
    """Whether two trees of arrays are equal bit for bit."""
    leaves, others = jax.tree.leaves(first), jax.tree.leaves(second)
    return len(leaves) == len(others) and all(
        np.asarray(a).tobytes() == np.asarray(b).tobytes()
        for a, b in zip(leaves, others, strict=True)
    )


# Kills. Processes are forked from this one, which has imported all and started nothing.

KILLS = {"tokens": 4, "trunk": 12, "cooldown": 12, "merge": 8}
BRANCH, END = 96, 160  # steps


def kills(folder: Path, rng: random.Random) -> Counter[tuple[str, str]]:
    text, log = write_text(folder / "text"), folder / "log"
    log.touch()
    calm, killed = chain(folder / "calm", text), chain(folder / "killed", text)
    for command in calm.values():
        finish(start(command, log), log)
    counts = Counter()
    for out, command in killed.items():
        first = BRANCH if out.name == "cooldown" else 0
        moments = sorted(rng.choices(range(first, END - 16), k=KILLS[out.name]))
        while moments and not (out / "tokens.json").exists():
            best = newest(out)
            where = kill(command, out, moments[0], rng, log)
            counts[out.name, where] += 1
            if where != TOO_LATE:
                moments.pop(0)
            if newest(out) < best:
                counts[out.name, "LOST a checkpoint"] += 1
        if not (out / "tokens.json").exists():
            finish(start(command, log), log)
    if "Traceback" in log.read_text():
        counts["all", "LOST: a traceback in the log"] += 1
    for one, other in zip(killed, calm, strict=True):  # JAX starts here
        equal = same(states(one), states(other)) and history(one) == history(other)
        if one.name == "tokens":
            files = ("train.bin", "val.bin", "tokens.json", "tokenizer.json")
            equal = all(
                (one / f).read_bytes() == (other / f).read_bytes() for f in files
            )
        verdict = "in the end equal to the undisturbed run" if equal else UNEQUAL
        counts[one.name, verdict] += 1
        counts[one.name, "LOST: room, to unfinished steps"] += len(drafts(one))
    return +counts


ALL_KINDS = ["start", "step", "save"]
UNEQUAL = "LOST: not equal to the undisturbed run"
TOO_LATE = "had ended already: not counted"


def chain(folder: Path, text: Path) -> dict[Path, list[str]]:
    """The commands by where they write."""
    tokens, trunk, branch, merged = (folder / name for name in KILLS)
    mix = ["--mix", f"{tokens}=0.5"]
    return {
        tokens: tokenize(text, tokens, "--vocabulary", "300"),
        trunk: train(trunk, tokens, END),
        branch: [*cooldown(trunk, BRANCH, END - BRANCH, branch), *mix],
        merged: ["merge", str(trunk), "--last", "8", "--out", str(merged)],
    }


def start(command: list[str], log: Path) -> int:
    """Forks a process that runs a command."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        with log.open("a") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        code = gpt(command)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def finish(pid: int, log: Path) -> None:
    _, status = os.waitpid(pid, 0)
    if os.waitstatus_to_exitcode(status) != 0:
        raise SystemExit(f"A run that should have ended did not:\n{log.read_text()}")


def kill(command, out: Path, step: int, rng: random.Random, log: Path) -> str:
    """Starts a command, kills it, and tells from what it left where that was.

    At a random time from its start, or just after it has trained a step, or as soon as
    the first save after that step can be seen.
    """
    kinds = {"tokens": ["start"], "merge": ["start", "save"]}.get(out.name, ALL_KINDS)
    kind, delay = rng.choice(kinds), rng.random()
    lines, old, began = len(read_metrics(out)), drafts(out), time.monotonic()
    pid = start(command, log)

    def has_come() -> bool:
        if kind == "start":
            return time.monotonic() > began + 5 * delay
        # None, while a run that begins anew has cut its metrics to its own.
        trained = [line["step"] for line in read_metrics(out)]
        is_new = len(trained) != lines and max(trained, default=0) > step
        if out.name != "merge" and not is_new:
            return False
        return kind == "step" or bool(drafts(out) - old)

    while not has_come():
        if os.waitpid(pid, os.WNOHANG) != (0, 0):
            return TOO_LATE
        time.sleep(0.001)
    time.sleep(0.005 * delay)
    os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    if os.WIFEXITED(status):
        return TOO_LATE
    if drafts(out) - old:
        return "killed in a save"
    return "killed while it started" if kind == "start" else "killed between saves"


def drafts(run: Path) -> set[tuple[str, int]]:
    """Steps that are not complete, each with the time of its latest change."""
    found = set()
    for path in (run / "checkpoints").glob("*"):
        complete = path.with_name(path.name[:9] + ".json")
        with contextlib.suppress(FileNotFoundError):  # gone meanwhile
            if not complete.exists() or path.suffix == ".tmp":
                found.add((path.name, path.stat().st_mtime_ns))
    return found


def newest(run: Path) -> int:
    return max((int(p.stem) for p in (run / "checkpoints").glob("*.json")), default=0)


def history(run: Path) -> list[dict[str, Any]]:
    """The metrics without their times."""
    return [line | {"seconds": 0} for line in read_metrics(run)]


# Corruptions.


def corruptions(
    folder: Path, rng: random.Random, count: int = 100
) -> Counter[tuple[str, str]]:
    text = write_text(folder / "text")
    for name, seed in (("run", "0"), ("other", "1")):
        must(train(folder / name, text, 16, "--seed", seed))
    truth, counts = states(folder / "run"), Counter()
    for i in range(count):
        damage = DAMAGES[i % len(DAMAGES)]
        victim = folder / f"{i}"
        shutil.copytree(folder / "run", victim)
        damage(victim, rng)
        command = train(victim, text, 16, "--seed", "0")
        what, said = consequence(victim, command, truth)
        if "LOST" in what:
            print(f"{victim}: {damage.__name__}, {what}\n{said}", file=sys.stderr)
        counts[title(damage), what] += 1
    return counts


def consequence(run: Path, command: list[str], truth) -> tuple[str, str]:
    """What comes of a damaged run: every step restored, then its command."""
    try:
        refused = restore_all(run, truth)
    except Exception:
        return "LOST: a step", traceback.format_exc()
    code, said = call(command)
    if "Traceback" in said:
        return "LOST: a traceback", said
    if code == 2:
        return "refused in a sentence", said
    if code != 0 or not same(state(run, 16), truth[16]):
        return "LOST: the weights", said
    if "is passed over" in said:
        return "noticed, said, trained again from the step before", said
    if "from step" in said:
        return "not there: trained again from the step before, which it names", said
    return (
        "asked for, that step is refused" if refused else "nothing depends on it",
        said,
    )


def restore_all(run: Path, truth) -> int:
    """Restores every step that is there; returns how many of them were refused."""
    manifest, refused = read_manifest(run.parent / "run"), 0
    checkpoints = open_checkpoints(run, manifest)
    like = make_trainer(manifest["config"]).abstract
    for step in checkpoints.steps():
        try:
            restored = checkpoints.restore(step, like)
        except UserError:
            refused += 1
        else:
            if step not in truth or not same(restored, truth[step]):
                raise AssertionError(f"Step {step} came back with other weights.")
    return refused


def any_file(run: Path, rng: random.Random) -> Path:
    files = sorted(p for p in run.rglob("*") if p.is_file() and p.stat().st_size)
    return rng.choice(files)


def any_step(run: Path, rng: random.Random) -> Path:
    return rng.choice(sorted(p for p in (run / "checkpoints").iterdir() if p.is_dir()))


def flip(run: Path, rng: random.Random) -> None:
    """One bit of a file is flipped."""
    path = any_file(run, rng)
    content = bytearray(path.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def truncate(run: Path, rng: random.Random) -> None:
    """A file is cut short."""
    path = any_file(run, rng)
    path.write_bytes(path.read_bytes()[: rng.randrange(path.stat().st_size)])


def delete(run: Path, rng: random.Random) -> None:
    """A file is deleted."""
    any_file(run, rng).unlink()


def delete_half(run: Path, rng: random.Random) -> None:
    """Half of a step's files are deleted."""
    step = any_step(run, rng)
    files = [p for p in step.rglob("*") if p.is_file()] + [step.with_suffix(".json")]
    for path in rng.sample(files, len(files) // 2):
        path.unlink()


def delete_step(run: Path, rng: random.Random) -> None:
    """A step's folder is deleted."""
    shutil.rmtree(any_step(run, rng))


def stray_folder(run: Path, rng: random.Random) -> None:
    """An empty folder or file is named like a step."""
    step = rng.choice([3, 20, 99, 10**9])
    name = rng.choice([f"{step:09d}", f"{step}", f"{step:09d}.json", f"{step}.json"])
    path = run / "checkpoints" / name
    path.mkdir() if rng.random() < 0.5 else path.touch()


def foreign_step(run: Path, rng: random.Random) -> None:
    """A step is that of another run."""
    step = any_step(run, rng)
    replace_step(step, run.parent / "other" / "checkpoints" / step.name)


def renamed_step(run: Path, rng: random.Random) -> None:
    """A step is another one of the same run, renamed."""
    step, other = rng.sample(sorted((run / "checkpoints").glob("*.json")), 2)
    replace_step(step.with_suffix(""), other.with_suffix(""))


def replace_step(step: Path, other: Path) -> None:
    shutil.rmtree(step)
    shutil.copytree(other, step)
    shutil.copy(other.with_suffix(".json"), step.with_suffix(".json"))


def every_step(run: Path, rng: random.Random) -> None:
    """A file of every step is damaged."""
    for step in sorted((run / "checkpoints").glob("*.json")):
        step.write_bytes(step.read_bytes()[:-9])


def foreign_arrays(run: Path, rng: random.Random) -> None:
    """A step has the arrays of another run under its own manifest."""
    step = any_step(run, rng)
    shutil.rmtree(step)
    shutil.copytree(run.parent / "other" / "checkpoints" / step.name, step)


DAMAGES: list[Callable[[Path, random.Random], None]] = [
    *[flip] * 8,
    *[truncate] * 4,
    *[delete] * 3,
    delete_half,
    delete_step,
    stray_folder,
    foreign_step,
    renamed_step,
    foreign_arrays,
    every_step,
]


# Commands.

NO_NUMBERS = ["-1", "1.5.2", "many", "nan", "", "0x10", "1e999", "--"]


def commands(
    folder: Path, rng: random.Random, count: int = 200
) -> Counter[tuple[str, str]]:
    text = write_text(folder / "text")
    trunk = folder / "trunk"
    must(train(trunk, text, 16))
    must(cooldown(trunk, 8, 4, folder / "branch"))
    must(tokenize(text, folder / "tokens", "--vocabulary", "300"))
    good = good_commands(folder, text)
    wrong = [("written by hand", command) for command in mistakes(folder, text)]
    while len(wrong) < count:
        mutate = rng.choice(MUTATIONS)
        command = mutate(list(rng.choice(good)), rng)
        if command is not None:
            wrong.append((title(mutate), command))
    counts, before = Counter(), contents(folder)
    for kind, command in wrong:
        code, said = call(command)
        if "Traceback" in said:
            what = "LOST: a traceback"
        elif contents(folder) != before:
            what = "LOST: something was written"
            before = contents(folder)
        elif code != 2 or not said.strip():
            what = f"LOST: accepted with code {code}"
        else:
            what = "refused in a sentence"
        if "LOST" in what:
            print(f"{what}: {command}\n{said}", file=sys.stderr)
        counts[kind, what] += 1
    return counts


def contents(folder: Path) -> dict[Path, int]:
    """All files and folders with the times of their latest change."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def good_commands(folder: Path, text: Path) -> list[list[str]]:
    trunk, new = folder / "trunk", folder / "new"
    tiny = [*TINY, "--data", str(text)]
    return [
        train(new, text, 16, "--seed", "3", "--b1", "0.9", "--accumulate", "2"),
        [*cooldown(trunk, 8, 4, new), "--shape", "linear"],
        ["compare", "--out", str(new), "--budgets", "8", "12", "16", *tiny],
        ["merge", str(trunk), "--last", "2", "--out", str(new)],
        ["merge", str(trunk), "--ema", "0.1", "--out", str(new)],
        ["sample", str(trunk), "--tokens", "5", "--temperature", "0.5"],
        ["evaluate", str(trunk), f"{trunk}@8", "--which", "ema"],
        ["export", str(trunk), "--which", "ema", "--out", str(new)],
        tokenize(text, new, "--vocabulary", "300"),
        ["plan", str(trunk), "--shape", "linear", "--lengths", "4", "8"],
    ]


def bad_number(command: list[str], rng: random.Random) -> list[str] | None:
    """A number is none, or out of range."""
    numbers = [i for i, word in enumerate(command) if re.fullmatch(r"[\d.]+", word)]
    # Of an option that is given twice, the last one counts.
    numbers = [i for i in numbers if command[i - 1] not in command[i:]]
    command[rng.choice(numbers or [0])] = rng.choice(NO_NUMBERS)
    return command if numbers else None


def misspelt_option(command: list[str], rng: random.Random) -> list[str] | None:
    """An option is misspelt."""
    options = [i for i, word in enumerate(command) if word.startswith("--")]
    i = rng.choice(options)
    at = rng.randrange(2, len(command[i]))
    command[i] = command[i][:at] + rng.choice("qxz") + command[i][at:]
    return command


def missing_value(command: list[str], rng: random.Random) -> list[str] | None:
    """An option has no value."""
    options = [i for i, word in enumerate(command) if word.startswith("--")]
    return command[: rng.choice(options) + 1]


def surplus_word(command: list[str], rng: random.Random) -> list[str] | None:
    """A word or an option too many."""
    command.insert(1, rng.choice(["surplus", "--surplus", "--surplus=3", "-s"]))
    return command


def wrong_verb(command: list[str], rng: random.Random) -> list[str] | None:
    """The verb is missing, or none."""
    return rng.choice([command[1:], [command[0][:-1], *command[1:]], ["help"]])


def wrong_place(command: list[str], rng: random.Random) -> list[str] | None:
    """A path leads nowhere, or a step is not there."""
    places = [i for i, w in enumerate(command) if w.startswith("/") and i]
    places = [i for i in places if command[i - 1] != "--out"]
    if not places:
        return None
    i = rng.choice(places)
    changes = ["/nowhere", f"{command[i]}@", f"{command[i]}@7", f"{command[i]}@x"]
    command[i] = rng.choice(changes)
    return command


MUTATIONS: list[Callable[[list[str], random.Random], list[str] | None]] = [
    bad_number,
    bad_number,
    misspelt_option,
    missing_value,
    surplus_word,
    wrong_verb,
    wrong_place,
]


def mistakes(folder: Path, text: Path) -> list[list[str]]:
    """Mistakes that mutations do not find."""
    trunk, new = folder / "trunk", folder / "new"
    (folder / "empty").mkdir()
    (folder / "letters").mkdir()
    (folder / "letters" / "mine.txt").write_text("Dear Jo,")
    (folder / "zipped.gz").write_bytes(b"\x1f\x8b\x08\0")
    (folder / "half").mkdir()
    (folder / "half" / "train.bin").write_bytes(bytes(999))
    odd = folder / os.fsdecode(b"\xff")
    (folder / "broken").mkdir()
    (folder / "broken" / "run.json").write_text('{"config": [1, 2')
    manifest = trunk / "run.json"

    def training(*changes: str, out: Path = new) -> list[str]:
        return train(out, text, 16, *changes)

    def cooling(source: str, *changes: str, out: Path = new) -> list[str]:
        return ["cooldown", "--from", source, "--out", str(out), *changes]

    def comparing(*changes: str) -> list[str]:
        tiny = [*TINY, "--data", str(text)]
        return ["compare", "--out", str(new), *tiny, *changes]

    return [
        [],
        ["train", "train"],
        training("--steps", "2147483648"),
        training("--seed", str(2**31)),
        training("--width", "15"),
        training("--heads", "3"),
        training("--peak", "0"),
        training("--peak", "1e7"),
        training("--b1", "1"),
        training("--b2", "-0.1"),
        training("--accumulate", "3"),
        training("--batch-size", "7", "--accumulate", "2"),
        training("--cooldown-steps", "14"),
        training("--cooldown-steps", "4", "--optimizer", "schedule_free"),
        training("--optimizer", "sgd"),
        training("--compute-dtype", "float8"),
        training("--sequence-length", "999999"),
        training("--data", str(folder / "empty")),
        training("--data", str(folder / "empty" / "x")),
        training("--data", str(manifest / "x")),
        training("--data", str(folder / "zipped.gz")),
        training("--data", str(folder / "half")),
        training("--mix", "0.5"),
        training("--mix", f"{text}=1.5"),
        training("--mix", f"{folder}/tokens=0.5"),
        training("--mix", f"{folder}/tokens=0.5", out=trunk),
        training("--lr", "0.1"),
        training("--preset", "gpt5"),
        training(out=odd),
        training(out=folder / "letters"),
        training(out=folder / "broken"),
        training(out=manifest),
        training(out=manifest / "x"),
        training(out=folder / ("x" * 300)),
        training("--peak", "0.02", out=trunk),
        training("--width", "32", out=trunk),
        training("--seed", "1", out=trunk),
        training("--data", str(folder / "letters"), out=trunk),
        training("--cooldown-steps", "2", out=trunk),
        training("--sequence-length", "9", out=trunk),
        cooling(f"{trunk}", "--steps", "4"),
        cooling(f"{trunk}@8@8", "--steps", "4"),
        cooling(f"{trunk}@-8", "--steps", "4"),
        cooling(f"{trunk}@8.0", "--steps", "4"),
        cooling(f"{trunk}@{10**30}", "--steps", "4"),
        cooling("@8", "--steps", "4"),
        cooling("@", "--steps", "4"),
        cooling("", "--steps", "4"),
        cooling(f"{trunk}@8", "--steps", "0"),
        cooling(f"{trunk}@8", "--steps", str(2**31)),
        cooling(f"{trunk}@8", "--steps", "AUTO"),
        cooling(f"{trunk}@8", "--steps", "4", "--shape", "square"),
        cooling(f"{trunk}@8", "--steps", "4", "--peak", "0"),
        cooling(f"{trunk}@8", "--steps", "4", "--batch-size", "3", "--accumulate", "2"),
        cooling(f"{trunk}@8", "--steps", "4", "--data", str(folder / "letters")),
        cooling(f"{trunk}@8", "--steps", "4", "--data", f"{folder}/tokens"),
        cooling(f"{trunk}@home", "--steps", "4"),
        cooling(f"{trunk}@8", "--steps", "4", out=trunk),
        cooling(f"{trunk}@8", "--steps", "5", out=folder / "branch"),
        cooling(f"{folder}/branch@12", "--steps", "4"),
        cooling(f"{folder}/letters@8", "--steps", "4"),
        cooling(f"{folder}/broken@8", "--steps", "4"),
        cooling(f"{manifest}@8", "--steps", "4"),
        comparing("--budgets", "0"),
        comparing("--budgets", "8", "12", "16", "--cooldown-share", "2"),
        comparing("--budgets", "8", "12", "16", "--cosine-peak", "-0.1"),
        comparing("--budgets", "8", "12", "16", "--cosine-peak", "nan"),
        ["merge", str(trunk), "--last", "3", "--out", str(new)],
        ["merge", str(trunk), "--last", "0", "--out", str(new)],
        ["merge", str(trunk), "--ema", "0.9", "--out", str(new)],
        ["merge", str(trunk), "--ema", "inf", "--out", str(new)],
        ["merge", str(trunk), "--last", "2", "--out", str(trunk)],
        ["merge", f"{trunk}@4", "--out", str(new)],
        ["merge", str(folder / "letters"), "--out", str(new)],
        ["sample", str(trunk), "--tokens", "0"],
        ["sample", str(trunk), "--temperature", "100"],
        ["sample", str(trunk), "--which", "best"],
        ["evaluate"],
        ["evaluate", str(trunk), f"{trunk}@7"],
        ["evaluate", str(trunk), "--which"],
        ["evaluate", str(trunk), "--data", f"{folder}/tokens"],
        ["export", str(trunk), "--out", str(manifest)],
        ["export", f"{trunk}@7", "--out", str(new)],
        tokenize(text, trunk),
        tokenize(folder / "zipped.gz", new),
        tokenize(text, new, "--tokenizer", str(manifest)),
        tokenize(text, new, "--vocabulary", "200"),
        ["sample", f"{trunk}@9"],
        ["sample", str(folder / "empty")],
        ["plan", str(trunk), "--lengths", "0"],
        ["plan", str(trunk), "--branches", str(folder / "letters")],
        ["plan", str(folder / "empty")],
        ["plan", str(folder / "broken")],
    ]


PARTS = {"kills": kills, "corruptions": corruptions, "commands": commands}


def main(only: Literal["all", "kills", "corruptions", "commands"] = "all", seed=0):
    """Counts what happens.

    Args:
        only: One of the three parts.
        seed: Fixes the moments, the bits and the mutations.
    """
    jax.config.update("jax_disable_most_optimizations", True)  # quicker to compile
    lost, rows = 0, []
    for name, part in PARTS.items():
        if only not in ("all", name):
            continue
        with tempfile.TemporaryDirectory() as folder:
            counts = part(Path(folder), random.Random(seed))
        for (what, outcome), count in sorted(counts.items()):
            rows.append([name, what, outcome, str(count)])
            lost += count * outcome.startswith("LOST")
    print(versions("flax", "orbax-checkpoint"))
    print()
    print_table(["", "what", "outcome", "count"], rows)
    sys.exit(min(lost, 1))


if __name__ == "__main__":
    tyro.cli(main)
