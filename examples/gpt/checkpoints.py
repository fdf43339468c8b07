"""Checkpoints by Orbax v1: complete and verified, or not there.

    checkpoints/000000100/       the arrays, written by Orbax
    checkpoints/000000100.json   written last: what trained them, SHA-256 of every file
    checkpoints/000000100.keep   a branch starts here: never deleted

A step without its JSON is not a checkpoint, so a killed save or a stray folder is none.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from .config import UserError, require


class CorruptError(UserError):
    """The files of a step are not those that were saved."""


@dataclass
class Checkpoints:
    """The checkpoints of one run.

    Args:
        folder: Where they are.
        identity: What the weights depend on: model, optimizer and data. Saved with
            every step and compared on restore, unless it is None.
        snapshot_every: Steps at multiples of it are kept.
        latest: Number of newest steps that are kept as well.
    """

    folder: Path
    identity: dict[str, Any] | None
    snapshot_every: int = 1
    latest: int = 2

    def __post_init__(self):
        self._writer = ThreadPoolExecutor(1)
        self._writing: Future[None] | None = None

    def steps(self) -> list[int]:
        """The steps that are there, oldest first."""
        found = self.folder.glob("*.json")
        return sorted(int(path.stem) for path in found if path.stem.isdigit())

    def save(self, step: int, state: Any) -> None:
        """Saves a state while training goes on."""
        self.finish()
        # A step is saved anew only after it was found corrupt.
        response = ocp.save_async(str(self._path(step)), state, overwrite=True)
        self._writing = self._writer.submit(self._complete, step, response)

    def finish(self) -> None:
        """Waits for the save under way."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def _complete(self, step: int, response: ocp.AsyncResponse[None]) -> None:
        """Makes a save count when it is written, and deletes what is not kept."""
        response.result()
        if jax.process_index() > 0:
            return
        manifest = {"identity": self.identity, "files": _hashes(self._path(step))}
        write_json(self._path(step, ".json"), manifest | {"sha256": _seal(manifest)})
        # Steps after this one were found corrupt, and do not count as newest.
        earlier = [old for old in self.steps() if old <= step]
        for old in earlier[: -self.latest]:
            if old % self.snapshot_every and not self._path(old, ".keep").exists():
                self._path(old, ".json").unlink()
                shutil.rmtree(self._path(old))

    def restore(self, step: int, abstract: Any) -> Any:
        """The verified state of a step, with the dtypes and shardings of `abstract`.

        Raises:
            CorruptError: a file is missing, or not what was saved.
            UserError: the step is not there, or other settings trained it.
        """
        require(step in self.steps(), self._not_there(step))
        manifest = self._manifest(step)
        if manifest["files"] != _hashes(self._path(step)):
            raise CorruptError(f"Step {step} in {self.folder} is corrupt.")
        changed = _changes(manifest["identity"], self.identity or manifest["identity"])
        require(
            not changed,
            f"Step {step} in {self.folder} was trained with other settings "
            f"({'; '.join(changed)}).",
        )
        return ocp.load(str(self._path(step)), abstract)

    def restore_newest(self, abstract: Any, say: Callable[[str], None]):
        """The state of the newest good step, or None; says which ones are corrupt."""
        for step in reversed(self.steps()):
            try:
                return self.restore(step, abstract)
            except CorruptError as error:
                say(f"{error} Going back to the step before.")
        return None

    def keep(self, step: int) -> str:
        """Marks a branch point, which is never deleted, and returns its checksum."""
        require(step in self.steps(), self._not_there(step))
        self._path(step, ".keep").touch()
        return hashlib.sha256(self._path(step, ".json").read_bytes()).hexdigest()

    def _manifest(self, step: int) -> dict[str, Any]:
        try:
            manifest = json.loads(self._path(step, ".json").read_bytes())
            if manifest.pop("sha256") != _seal(manifest):
                raise ValueError("The manifest was changed.")
        except (ValueError, KeyError, AttributeError) as error:
            message = f"Step {step} in {self.folder} is corrupt."
            raise CorruptError(message) from error
        return manifest

    def _not_there(self, step: int) -> str:
        steps = ", ".join(map(str, self.steps())) or "none"
        return (
            f"There is no checkpoint of step {step} in {self.folder}; there: {steps}."
        )

    def _path(self, step: int, suffix: str = "") -> Path:
        return self.folder.absolute() / f"{step:09d}{suffix}"


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file that is there whole or not at all."""
    draft = path.with_name(path.name + ".tmp")
    with draft.open("w") as file:
        json.dump(value, file, indent=2)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def _seal(manifest: dict[str, Any]) -> str:
    """The manifest's own checksum."""
    text = json.dumps(manifest, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _hashes(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): _sha256(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _changes(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    return [
        f"{name}: {old.get(name)}, now {new.get(name)}"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    ]
