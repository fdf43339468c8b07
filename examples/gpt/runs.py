"""A run's folder: its manifest, its lock, its checkpoints, its parent.

run.json        config, data, parent and versions, sealed by their checksum
metrics.jsonl   one line a step and one an evaluation
checkpoints/    see checkpoints.py
tokenizer.json  that of its data, if those are tokens
"""

import fcntl
import hashlib
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from .checkpoints import Checkpoints, read_sealed, write_sealed
from .config import (
    CHANGE_AT_BRANCH,
    FREE,
    Config,
    UserError,
    differences,
    flatten,
    from_json,
    require,
    to_json,
    with_changes,
)
from .data import Text, printable
from .processes import agree, in_first_process
from .progress import say

Manifest = dict[str, Any]


@dataclass
class Run:
    """One run's folder, locked while it is open."""

    folder: Path
    config: Config
    checkpoints: Checkpoints

    @property
    def name(self) -> str:
        return printable(Path(self.folder.name))


@contextmanager
def open_run(
    folder: Path, config: Config, text: Text, parent: Manifest | None = None
) -> Iterator[Run]:
    """Makes a run's folder, or opens it to go on where it stopped.

    Raises:
        UserError: another process has it, it is something else, or it was made with
            other settings, data or parent.
    """
    agree("data", text.identity)
    manifest = {
        "config": to_json(config),
        "data": text.manifest(),
        "parent": parent,
        "versions": versions(),
    }
    lock = in_first_process(
        lambda: _make_folder(folder, manifest, config, text.tokenizer),
        f"Process 0 refuses {folder}.",
    )
    checkpoints = open_checkpoints(folder, manifest | {"config": config})
    try:
        yield Run(folder, config, checkpoints)
    finally:
        try:
            checkpoints.finish()
        finally:
            if lock is not None:
                lock.close()


def _make_folder(
    folder: Path, manifest: Manifest, config: Config, tokenizer: str | None
):
    """Checks or makes a run's folder, and returns its lock."""
    try:
        os.fspath(folder.absolute()).encode()
    except UnicodeEncodeError as error:  # Orbax cannot write there
        raise UserError(f"--out must be UTF-8, got {printable(folder)}.") from error
    path = folder / "run.json"
    if path.exists():
        _require_same(folder, read_manifest(folder), config, manifest)
    else:
        names = {p.name for p in folder.iterdir()} if folder.is_dir() else set()
        require(
            names <= {".lock", ".run.json.tmp"},  # of a run killed before its start
            f"{folder} holds other files than those of a run.",
        )
    folder.mkdir(parents=True, exist_ok=True)
    lock = _lock(folder)
    try:
        write_sealed(path, manifest)
        (folder / "checkpoints").mkdir(exist_ok=True)
        if tokenizer is not None:
            (folder / "tokenizer.json").write_text(tokenizer)
    except OSError:
        lock.close()
        raise
    return lock


def open_checkpoints(folder: Path, manifest: Manifest) -> Checkpoints:
    """The checkpoints of a run, which no other run's can take the place of."""
    config = manifest["config"]
    may_change = (*FREE, "steps", "optimizer.cooldown_steps", "optimizer.shape")
    fields = {k: v for k, v in flatten(config).items() if not k.startswith(may_change)}
    fields["data"] = manifest["data"]["identity"]
    name = hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()
    return Checkpoints(folder / "checkpoints", name, config.loop.snapshot_every)


def read_manifest(folder: Path) -> Manifest:
    """What run.json says, with the config as a `Config`."""
    path = folder / "run.json"
    require(path.is_file(), f"There is no run in {folder} (no run.json).")
    try:
        manifest = read_sealed(path)
        return manifest | {"config": from_json(Config, manifest["config"])}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not a run's manifest: {error}.") from error


def read_tokenizer(folder: Path, manifest: Manifest) -> str | None:
    """What a run's tokenizer.json says, or None for a run that has none."""
    path, sha256 = folder / "tokenizer.json", manifest["data"]["tokenizer"]
    if sha256 is None:
        return None
    content = path.read_bytes()
    is_its_own = hashlib.sha256(content).hexdigest() == sha256
    require(is_its_own, f"{path} was changed since it was written.")
    return content.decode()


def find_step(name: str) -> tuple[Path, int | None]:
    """The folder and step of RUN@STEP, or the folder RUN and None."""
    folder, at, step = name.rpartition("@")
    if not at or (Path(name) / "run.json").exists():
        return Path(name), None
    need = f"A run is given as RUN or RUN@STEP, such as runs/trunk@500, got {name}."
    require(bool(folder) and step.isdecimal(), need)
    return Path(folder), int(step)


def name_parent(folder: Path, branch_point: tuple[Path, int]) -> Manifest:
    """How a run names the one that it comes from: by its step's seal, and a path."""
    parent, step = branch_point
    seal = Checkpoints(parent / "checkpoints").seal(step)
    path = os.path.relpath(parent.resolve(), folder.resolve())
    return {"run": path, "step": step, "seal": seal}


def find_parent(folder: Path) -> Path:
    """The trunk of a branch: where it was, or beside the branch by another name."""
    parent, here = read_manifest(folder)["parent"], folder.resolve()
    for place in (here / parent["run"], *_beside(folder)):
        if _has(place, parent):
            return place
    raise UserError(
        f"The trunk of {folder} is not in {here / parent['run']}, where it was, nor is "
        f"it beside the branch under another name: move it to {here.parent}."
    )


def _beside(folder: Path) -> list[Path]:
    """The runs beside a run, also where it is a link."""
    places = {folder.parent, folder.resolve().parent}
    return sorted(path.parent for p in places for path in p.glob("*/run.json"))


def _has(run: Path, parent: Manifest) -> bool:
    try:
        return Checkpoints(run / "checkpoints").seal(parent["step"]) == parent["seal"]
    except UserError:
        return False


def finished_branches(trunk: Path) -> list[Path]:
    """The cooldowns of a trunk that lie beside it and have reached their end.

    Those that changed more than their rate and its shape, such as the data, are none.
    """
    found = []
    for folder in _beside(trunk):
        try:
            manifest = read_manifest(folder)
        except UserError as error:
            say(f"{error} It is passed over.")
            continue
        parent, steps = manifest["parent"], manifest["config"].steps
        if parent is None or parent.get("changes", "merged") or not _has(trunk, parent):
            continue
        if steps in Checkpoints(folder / "checkpoints").steps():
            found.append(folder)
    return found


def branch_config(trunk: Config, step: int, cooldown_steps: int, **changes) -> Config:
    """The config of a cooldown that leaves the trunk at a step."""
    require(cooldown_steps >= 1, f"--steps must be at least 1, got {cooldown_steps}.")
    start = trunk.cooldown_start
    require(
        start is None or step <= start,
        f"The trunk cools down from step {start} on: branch before it, not at {step}.",
    )
    changes |= {"steps": step + cooldown_steps, "cooldown_steps": cooldown_steps}
    return with_changes(trunk, **changes)


def branch_changes(trunk: Manifest, config: Config, text: Text) -> list[str]:
    """What a branch does otherwise than its trunk; refuses what it may not."""
    refused = differences(trunk["config"], config, *CHANGE_AT_BRANCH)
    if trunk["data"]["sha256"] != text.sha256:
        refused.append(f"data: {trunk['data']['sha256'][:16]}, now {text.identity}")
    require(not refused, f"A branch cannot change its trunk's {'; '.join(refused)}.")
    lengths = ("steps", "optimizer.cooldown_steps", "optimizer.shape")
    changes = differences(trunk["config"], config, *lengths)
    if trunk["data"]["identity"] != text.identity:
        changes.append(f"data: {trunk['data']['identity']}, now {text.identity}")
    return changes


def versions() -> dict[str, str]:
    names = ("jax", "flax", "optax", "orbax-checkpoint", "grain", "numpy")
    python = ".".join(map(str, sys.version_info[:3]))
    return {"python": python} | {name: metadata.version(name) for name in names}


def _require_same(folder: Path, old: Manifest, config: Config, new: Manifest) -> None:
    may_grow = ("steps",) if old["config"].cooldown_start is None else ()
    changed = differences(old["config"], config, *may_grow)
    texts = [f"{m['data']['name']} {m['data']['identity']}" for m in (old, new)]
    if old["data"]["identity"] != new["data"]["identity"]:
        changed.append("data: " + ", now ".join(texts))
    parents = [m["parent"] or {} for m in (old, new)]
    if any(parents[0].get(k) != parents[1].get(k) for k in ("seal", "step", "merged")):
        origins = (f"{p['run']}@{p['step']}" if p else "none" for p in parents)
        changed.append("parent: " + ", now ".join(origins))
    require(
        not changed,
        f"{folder} was made with other settings ({'; '.join(changed)}): "
        "choose another --out, or go back to them.",
    )


def _lock(folder: Path):
    """Locks a folder until the file is closed or the process ends, however it ends."""
    file = (folder / ".lock").open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        pid = file.read().strip()
        file.close()
        raise UserError(f"{folder} is in use by process {pid}.") from None
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    return file
