"""Checkpoints by Orbax v1: complete and verified, or not there.

    checkpoints/000000100/       the arrays, written by Orbax
    checkpoints/000000100.json   written last: its run, and SHA-256 of every file;
                                 its own seal names this step for ever
    checkpoints/000000100.keep   a branch starts here: never deleted

A step without its JSON is not a checkpoint, so a killed save or a stray folder is none.
"""

import contextlib
import hashlib
import json
import logging
import math
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

# Orbax logs what it also raises, with a dozen tracebacks.
logging.getLogger("absl").setLevel(logging.CRITICAL)


class CorruptError(UserError):
    """The files of a step are not those that were saved."""


class SaveError(OSError):
    """A checkpoint could not be written, such as on a full disk."""


@dataclass
class Checkpoints:
    """The checkpoints of one run.

    Args:
        folder: Where they are.
        run: A name of the run, made of what its weights depend on. Saved with every
            step and compared on restore, unless it is None.
        snapshot_every: Steps at multiples of it are kept.
        latest: Number of newest steps that are kept as well.
    """

    folder: Path
    run: str | None = None
    snapshot_every: int = 1
    latest: int = 2

    def __post_init__(self):
        self._writer = ThreadPoolExecutor(1)
        self._writing: Future[None] | None = None

    def steps(self, until: float = math.inf) -> list[int]:
        """The steps that are there, oldest first.

        For a run that has come as far as `until` later ones do not count: it found them
        corrupt when it began.
        """
        found = self.folder.glob("*.json")
        steps = {int(path.stem) for path in found if path.stem.isdecimal()}
        complete = (step for step in steps if self._path(step, ".json").is_file())
        return sorted(step for step in complete if step <= until)

    def save(self, step: int, state: Any) -> None:
        """Saves a state while training goes on."""
        self.finish()
        # A step is saved anew only after it was found corrupt.
        response = ocp.save_async(str(self._path(step)), state, overwrite=True)
        self._writing = self._writer.submit(self._complete, step, response)

    def finish(self) -> None:
        """Waits for the save under way.

        Raises:
            SaveError: it failed; the steps before it are as they were.
        """
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def _complete(self, step: int, response: ocp.AsyncResponse[None]) -> None:
        """Makes a save count when it is written, and deletes what is not kept."""
        try:
            response.result()
            if jax.process_index() == 0:
                files = _hashes(self._path(step))
                manifest = {"step": step, "run": self.run, "files": files}
                write_sealed(self._path(step, ".json"), manifest)
                self._clean_up(step)
        except (OSError, ValueError) as error:
            there = ", ".join(map(str, self.steps(until=step - 1))) or "none"
            raise SaveError(
                f"Step {step} cannot be saved in {self.folder}; good checkpoints: "
                f"steps {there}. {error}"
            ) from error

    def _clean_up(self, newest: int) -> None:
        """Deletes what is not kept, and what killed saves have left behind."""
        complete = self.steps(until=newest)
        kept = set(complete[-self.latest :])
        kept |= {step for step in complete if step % self.snapshot_every == 0}
        kept |= {step for step in complete if self._path(step, ".keep").exists()}
        for path in self.folder.iterdir():
            step = path.name.partition(".")[0]  # also of 000000100.orbax-checkpoint-tmp
            if path.is_dir() and step.isdecimal() and int(step) <= newest:
                if int(step) not in kept:
                    self._path(int(step), ".json").unlink(missing_ok=True)
                    shutil.rmtree(path)

    def restore(self, step: int, abstract: Any) -> Any:
        """The verified state of a step, with the dtypes and shardings of `abstract`.

        Raises:
            CorruptError: a file is missing or not what was saved, or another run's.
            UserError: the step is not there, or has another tree of arrays.
        """
        if self._manifest(step)["files"] != _hashes(self._path(step)):
            raise CorruptError(f"Step {step} in {self.folder} is corrupt.")
        try:
            return ocp.load(str(self._path(step)), abstract)
        except ValueError as error:
            message = f"Step {step} in {self.folder} was saved by another version"
            raise UserError(f"{message}: {error}") from error

    def restore_newest(self, abstract: Any, say: Callable[[str], None]):
        """The state of the newest good step, or None where nothing was saved.

        Says which steps are corrupt.

        Raises:
            UserError: all are; to start from nothing is not for a program to decide.
        """
        for step in reversed(self.steps()):
            try:
                return self.restore(step, abstract)
            except CorruptError as error:
                say(f"{error} It is passed over.")
        require(
            not self.steps(),
            f"No checkpoint in {self.folder} is good: delete it all to start anew.",
        )
        return None

    def keep(self, step: int) -> str:
        """Marks a branch point, which is never deleted, and returns its seal.

        Raises:
            CorruptError, UserError: as `restore`, but for the arrays.
        """
        seal = self.seal(step)
        with contextlib.suppress(OSError):  # where no mark can be made none is needed
            self._path(step, ".keep").touch()
        require(step in self.steps(), self._not_there(step))  # not deleted meanwhile
        return seal

    def seal(self, step: int) -> str:
        """The checksum of a step's manifest, and with it of all of the step."""
        return _seal(self._manifest(step))

    def _manifest(self, step: int) -> dict[str, Any]:
        """The manifest of a step that is there and that this run has trained."""
        require(step in self.steps(), self._not_there(step))
        try:
            manifest = read_sealed(self._path(step, ".json"))
            if manifest["step"] != step:
                raise ValueError(f"It is of step {manifest['step']}.")
        except (ValueError, KeyError) as error:
            message = f"Step {step} in {self.folder} is corrupt."
            raise CorruptError(message) from error
        if manifest["run"] != (self.run or manifest["run"]):
            raise CorruptError(f"Step {step} in {self.folder} is another run's.")
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
    draft = path.with_name(f".{path.name}.tmp")
    with draft.open("w") as file:
        json.dump(value, file, indent=2)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def write_sealed(path: Path, value: dict[str, Any]) -> None:
    """Writes a JSON object with its own SHA-256, and what that is for."""
    write_json(path, value | {"sealed": _seal(value)})


def read_sealed(path: Path) -> dict[str, Any]:
    """What `write_sealed` wrote.

    Raises:
        ValueError: the file is something else, or was changed since.
    """
    value = json.loads(path.read_bytes())
    if not isinstance(value, dict) or value.pop("sealed", None) != _seal(value):
        raise ValueError("it was changed since it was written")
    return value


def _seal(value: dict[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
    return f"{digest} is the SHA-256 of the rest: edited, this file is refused"


def _hashes(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): _sha256(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
