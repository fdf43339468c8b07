"""A run's folder: its manifest, its lock, its checkpoints, its parent.

run.json        config, data, parent and versions, sealed by their checksum
metrics.jsonl   one line a step and one an evaluation
checkpoints/    see checkpoints.py
"""

import fcntl
import os
import sys
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from .checkpoints import Checkpoints, read_sealed, write_sealed
from .config import Config, UserError, differences, flatten, from_json, require, to_json
from .data import Text
from .progress import say

Manifest = dict[str, Any]


@dataclass
class Run:
    """One run's folder, locked while it is open."""

    folder: Path
    config: Config
    checkpoints: Checkpoints
    _lock: Any = None

    @property
    def name(self) -> str:
        return self.folder.name

    def close(self) -> None:
        try:
            self.checkpoints.finish()
        finally:
            if self._lock is not None:
                self._lock.close()

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, *exception) -> None:
        self.close()


def open_run(folder: Path, config: Config, text: Text, parent: Manifest | None) -> Run:
    """Makes a run's folder, or opens it to go on where it stopped.

    Raises:
        UserError: another process has it, it is something else, or it was made with
            other settings, data or parent.
    """
    manifest = {
        "config": to_json(config),
        "data": text.manifest(),
        "parent": parent,
        "versions": versions(),
    }
    lock, refusal = None, None
    if jax.process_index() == 0:
        try:
            lock = _make_folder(folder, config, manifest)
        except (UserError, OSError) as error:
            refusal = error
    if jax.process_count() > 1:  # none looks before the first has made it, or refused
        refused = multihost_utils.broadcast_one_to_all(np.array(refusal is not None))
        if refused and refusal is None:
            raise UserError(f"Process 0 refuses {folder}.")
    if refusal is not None:
        raise refusal
    return Run(folder, config, open_checkpoints(folder, config, text.sha256), lock)


def _make_folder(folder: Path, config: Config, manifest: Manifest):
    """Checks or makes a run's folder, and returns its lock."""
    path, parent = folder / "run.json", manifest["parent"]
    if path.exists():
        old = read_manifest(folder)
        _require_same(folder, old, config, manifest)
        manifest["parent"] = parent and old["parent"] | parent
    else:
        names = {p.name for p in folder.iterdir()} if folder.is_dir() else set()
        require(
            names <= {"lock", "run.json.tmp"},  # left by a run killed before its start
            f"{folder} holds other files than those of a run.",
        )
    folder.mkdir(parents=True, exist_ok=True)
    lock = _lock(folder)
    try:
        write_sealed(path, manifest)
        (folder / "checkpoints").mkdir(exist_ok=True)
    except OSError:
        lock.close()
        raise
    return lock


def open_checkpoints(folder: Path, config: Config, text_sha256: str) -> Checkpoints:
    """The checkpoints of a run, which fit only the config and data that made them."""
    every, identity = config.loop.snapshot_every, _identity(config, text_sha256)
    return Checkpoints(folder / "checkpoints", identity, every)


def read_manifest(folder: Path) -> Manifest:
    """What run.json says, with the config as a `Config`."""
    path = folder / "run.json"
    require(path.is_file(), f"There is no run in {folder} (no run.json).")
    try:
        manifest = read_sealed(path)
        return manifest | {"config": from_json(Config, manifest["config"])}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not a run's manifest: {error}.") from error


def find_step(name: str) -> tuple[Path, int | None]:
    """The folder and step of RUN@STEP, or the folder RUN and None."""
    folder, at, step = name.rpartition("@")
    if not at:
        return Path(name), None
    need = f"A run is given as RUN or RUN@STEP, such as runs/trunk@500, got {name}."
    require(bool(folder) and step.isdecimal(), need)
    return Path(folder), int(step)


def name_parent(folder: Path, branch_point: tuple[Path, int]) -> Manifest:
    """How a branch's manifest names its trunk: the path from its own folder."""
    trunk, step = branch_point
    return {"run": os.path.relpath(trunk, folder), "step": step}


def finished_branches(trunk: Path) -> list[Path]:
    """The cooldowns of a trunk that lie beside it and have reached their end."""
    found = []
    for path in sorted(trunk.parent.glob("*/run.json")):
        folder = path.parent
        try:
            manifest = read_manifest(folder)
        except UserError as error:
            say(f"{error} It is passed over.")
            continue
        parent, steps = manifest["parent"], manifest["config"].steps
        if parent is None or "merged" in parent:
            continue
        is_branch = (folder / parent["run"]).resolve() == trunk.resolve()
        if is_branch and steps in Checkpoints(folder / "checkpoints", None).steps():
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
    optimizer = replace(trunk.optimizer, cooldown_steps=cooldown_steps, **changes)
    return replace(trunk, steps=step + cooldown_steps, optimizer=optimizer)


def versions() -> dict[str, str]:
    names = ("jax", "flax", "optax", "orbax-checkpoint", "grain", "numpy")
    python = ".".join(map(str, sys.version_info[:3]))
    return {"python": python} | {name: metadata.version(name) for name in names}


def _identity(config: Config, text_sha256: str) -> Manifest:
    """What a checkpoint's weights depend on, but not where its run will end."""
    free = {"steps", "optimizer.cooldown_steps", "optimizer.shape", "data.data"}
    fields = flatten(config).items()
    kept = {k: v for k, v in fields if k not in free and not k.startswith("loop.")}
    return kept | {"data.sha256": text_sha256}


def _require_same(folder: Path, old: Manifest, config: Config, new: Manifest) -> None:
    changed = differences(old["config"], config)
    if old["data"]["sha256"] != new["data"]["sha256"]:
        names = (f"{m['data']['name']} {m['data']['sha256'][:12]}" for m in (old, new))
        changed.append("data: " + ", now ".join(names))
    origins = [_origin(manifest["parent"]) for manifest in (old, new)]
    if origins[0] != origins[1]:
        changed.append(f"parent: {origins[0]}, now {origins[1]}")
    require(
        not changed,
        f"{folder} was made with other settings ({'; '.join(changed)}): "
        "choose another --out, or go back to them.",
    )


def _origin(parent: Manifest | None) -> str:
    if parent is None:
        return "none"
    merged = f" ({parent['merged']})" if "merged" in parent else ""
    return f"{parent['run']}@{parent['step']}{merged}"


def _lock(folder: Path):
    """Locks a folder until the file is closed or the process ends, however it ends."""
    file = (folder / "lock").open("a+")
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
