"""A run's folder: run.json, its lock, its checkpoints, its tokenizer, its parent.

What the weights depend on, config and data, is hashed to a name that each checkpoint
has: a run.json that was edited has no checkpoints.
"""

import functools
import json
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock, Timeout
from flax.traverse_util import flatten_dict

from .checkpoints import Checkpoints, sha256, write_json
from .config import Config, UserError, from_json, require, to_json, with_changes
from .data import Text, codec
from .processes import agree, in_first_process
from .progress import say, write_whole

Manifest = dict[str, Any]  # what run.json says, with the config as a `Config`

# What may change at any time: it changes nothing that is learned, or is a path.
FREE = ("loop.", "data.data", "data.mix", "data.binary")
# What makes a cooldown of a trunk, and what else may change where it leaves it.
LENGTHS = ("steps", "optimizer.cooldown_steps", "optimizer.shape")
CHANGE_AT_BRANCH = (
    *LENGTHS,
    *("data.batch_size", "data.validation_sequences"),
    *("optimizer.peak", "optimizer.weight_decay", "optimizer.b2"),
)


def flatten(config: Config) -> dict[str, Any]:
    """The fields of a config as {'optimizer.peak': 0.004, ...}."""
    return flatten_dict(asdict(config), sep=".")


class Run(NamedTuple):
    """One run's folder, locked while it is open."""

    folder: Path
    config: Config
    checkpoints: Checkpoints


@contextmanager
def open_run(folder: Path, config: Config, text: Text, parent=None) -> Iterator[Run]:
    """Makes a run's folder, or opens it to go on where it stopped."""
    agree("data", text.identity)
    lock, manifest = FileLock(folder / ".lock"), {"config": config, "parent": parent}
    names = "jax", "flax", "optax", "orbax-checkpoint", "grain", "numpy"
    versions = {name: metadata.version(name) for name in names}
    manifest |= {"data": text.manifest(), "versions": versions}
    with ExitStack() as stack:
        stack.callback(lock.release)
        make = functools.partial(_make_folder, folder, manifest, text.tokenizer, lock)
        in_first_process(make, f"Process 0 refuses {folder}.")
        checkpoints = open_checkpoints(folder, manifest)
        stack.callback(checkpoints.finish)
        yield Run(folder, config, checkpoints)


def _make_folder(
    folder: Path, manifest: Manifest, tokenizer: str | None, lock: FileLock
) -> None:
    try:
        os.fspath(folder.absolute()).encode()
    except UnicodeEncodeError as error:  # Orbax cannot write there
        raise UserError(f"--out must be UTF-8, got {os.fsencode(folder)}.") from error
    path = folder / "run.json"
    if path.exists():
        _require_same(folder, read_manifest(folder), manifest)
    else:
        names = {p.name for p in folder.iterdir()} if folder.is_dir() else set()
        require(
            names <= {".lock", ".run.json.tmp"},  # of a run killed before its start
            f"{folder} holds other files than those of a run.",
        )
    folder.mkdir(parents=True, exist_ok=True)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise UserError(f"{folder} is in use by another process.") from error
    write_json(path, manifest | {"config": to_json(manifest["config"])})
    (folder / "checkpoints").mkdir(exist_ok=True)
    if tokenizer is not None:
        write_whole(folder / "tokenizer.json", tokenizer)


def facts(manifest: Manifest, *but: str) -> dict[str, Any]:
    """What the weights of a run depend on, by name, but for what has these names."""
    told = {"text": manifest["data"]["identity"], **flatten(manifest["config"])}
    return {k: v for k, v in told.items() if not k.startswith((*FREE, *but))}


def differences(old: Manifest, new: Manifest, *but: str) -> list[str]:
    """The facts that are others, each as 'name: old, now new'."""
    before, after = facts(old, *but), facts(new, *but)
    changed = [name for name in before if before[name] != after[name]]
    return [f"{name}: {before[name]}, now {after[name]}" for name in changed]


def open_checkpoints(folder: Path, manifest: Manifest) -> Checkpoints:
    """The checkpoints of a run, which no other run's can take the place of."""
    name = sha256(json.dumps(facts(manifest, *LENGTHS), sort_keys=True))
    every = manifest["config"].loop.snapshot_every
    return Checkpoints(folder / "checkpoints", name, every)


def read_manifest(folder: Path) -> Manifest:
    path = folder / "run.json"
    require(path.is_file(), f"There is no run in {folder} (no run.json).")
    try:
        manifest = json.loads(path.read_bytes())
        return manifest | {"config": from_json(Config, manifest["config"])}
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is not a run's manifest: {error}.") from error


def read_codec(name: str) -> tuple[Callable, Callable, int]:
    """`codec` of the tokens of a run, which has its own tokenizer.json."""
    folder, _ = find_step(name)
    path, data = folder / "tokenizer.json", read_manifest(folder)["data"]
    if data["unit"] == "bytes":
        return codec(None)
    require(data["tokenizer"] is not None, f"The tokens of {name} have no {path.name}.")
    good = sha256(path) == data["tokenizer"]
    require(good, f"{path} was changed since it was written.")
    return codec(path.read_text())


def find_step(name: str) -> tuple[Path, int | None]:
    """The folder and step of RUN@STEP, or the folder RUN and None."""
    folder, at, step = name.rpartition("@")
    if not at or (Path(name) / "run.json").exists():
        return Path(name), None
    need = f"A run is given as RUN or RUN@STEP, such as runs/trunk@500, got {name}."
    require(bool(folder) and step.isdecimal(), need)
    return Path(folder), int(step)


def name_parent(folder: Path, branch_point: tuple[Path, int]) -> dict[str, Any]:
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
    parents = folder.resolve().parent, folder.parent
    places = {place.resolve(): place for place in parents}.values()
    return sorted(path.parent for p in places for path in p.glob("*/run.json"))


def _has(run: Path, parent: dict[str, Any]) -> bool:
    try:
        return Checkpoints(run / "checkpoints").seal(parent["step"]) == parent["seal"]
    except UserError:
        return False


def finished_branches(trunk: Path) -> list[Path]:
    """The finished cooldowns beside a trunk that changed nothing but its rate."""
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
    need = "--steps must be at least 1 and below 2**31"
    require(1 <= cooldown_steps < 2**31, f"{need}, got {cooldown_steps}.")
    start = trunk.cooldown_start
    good, advice = start is None or step <= start, "branch there or before, or from"
    cools = f"A run that cools down from step {start} on is not extended at step {step}"
    require(good, f"{cools}: {advice} its trunk, with more --steps.")
    changes |= {"steps": step + cooldown_steps, "cooldown_steps": cooldown_steps}
    return with_changes(trunk, **changes)


def branch_changes(trunk: Manifest, config: Config, text: Text) -> list[str]:
    """What a branch does otherwise than its trunk; refuses what it may not."""
    branch = {"config": config, "data": text.manifest()}
    texts = {run["data"]["identity"].partition("+")[0] for run in (trunk, branch)}
    mixed = ["text"] if len(texts) == 1 else []  # it differs in what is mixed in
    refused = differences(trunk, branch, *CHANGE_AT_BRANCH, *mixed)
    require(not refused, f"A branch cannot change its trunk's {'; '.join(refused)}.")
    return differences(trunk, branch, *LENGTHS)


def _require_same(folder: Path, old: Manifest, new: Manifest) -> None:
    """Refuses to go on with other settings, data or parent."""
    may_grow = ("steps",) if old["config"].cooldown_start is None else ()
    changed = differences(old, new, *may_grow)
    parents = [m["parent"] or {} for m in (old, new)]
    if any(parents[0].get(k) != parents[1].get(k) for k in ("seal", "step", "merged")):
        origins = (f"{p['run']}@{p['step']}" if p else "none" for p in parents)
        changed.append("parent: " + ", now ".join(origins))
    require(
        not changed,
        f"{folder} was made with other settings ({'; '.join(changed)}): "
        "choose another --out, or go back to them.",
    )
