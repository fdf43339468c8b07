"""Checkpoints by Orbax v1: complete and verified, or not there.

    checkpoints/000000100/       the arrays, written by Orbax
    checkpoints/000000100.json   written last: its run, and the SHA-256 of every file
    checkpoints/000000100.keep   a branch starts here: never deleted

A step without its JSON is not a checkpoint, so a killed save or a stray folder is none,
and one whose files or run are not what the JSON says is corrupt. The SHA-256 of the
JSON, the step's seal, thus identifies all of it: a branch names its parent by it.
"""

import contextlib
import hashlib
import json
import logging
import math
import os
import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from .config import UserError, require
from .progress import say, write_whole

# Orbax logs what it also raises, with a dozen tracebacks.
logging.getLogger("absl").setLevel(logging.CRITICAL)


class CorruptError(UserError):
    """The files of a step are not those that were saved."""


@dataclass
class Checkpoints:
    """The checkpoints of one run, of which old ones are deleted."""

    folder: Path
    run: str | None = None  # its name; None takes steps of any run
    snapshot_every: int = 1  # steps at multiples of it are kept
    latest: int = 2  # and so many of the newest

    def __post_init__(self):
        self._writer = ThreadPoolExecutor(1)
        self._writing: Future[None] | None = None

    def steps(self, until: float = math.inf) -> list[int]:
        """The steps that are there, oldest first.

        For a run that has come as far as `until` later ones do not count: it found them
        corrupt when it began.
        """
        stems = {path.stem for path in self.folder.glob("*.json")}
        steps = sorted(int(stem) for stem in stems if stem.isdecimal())
        return [n for n in steps if n <= until and self._path(n, ".json").is_file()]

    def save(self, step: int, state: Any) -> None:
        """Saves a state while training goes on."""
        self.finish()
        # A step is saved anew only after it was found corrupt.
        response = ocp.save_async(str(self._path(step)), state, overwrite=True)
        self._writing = self._writer.submit(self._complete, step, response)

    def finish(self) -> None:
        """Waits for the save under way; if it failed, the steps before are intact."""
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
                write_json(self._path(step, ".json"), manifest)
                self._clean_up(step)
        except (OSError, ValueError) as error:
            good = f"good checkpoints: steps {self._listed(until=step - 1)}"
            failed = f"Step {step} cannot be saved in {self.folder}; {good}. {error}"
            raise OSError(failed) from error

    def _clean_up(self, newest: int) -> None:
        """Deletes what is not kept, and what killed saves have left behind."""
        there = self.steps(until=newest)
        kept = set(there[-self.latest :])
        kept |= {step for step in there if step % self.snapshot_every == 0}
        kept |= {step for step in there if self._path(step, ".keep").exists()}
        for path in self.folder.iterdir():
            name = path.name.partition(".")[0]  # also of 000000100.orbax-checkpoint-tmp
            step = int(name) if path.is_dir() and name.isdecimal() else newest
            if step < newest and step not in kept:
                self._path(step, ".json").unlink(missing_ok=True)
                shutil.rmtree(path)

    def restore(self, step: int, abstract: Any) -> Any:
        """The verified state of a step, with the dtypes and shardings of `abstract`."""
        if self._manifest(step)["files"] != _hashes(self._path(step)):
            raise CorruptError(f"Step {step} in {self.folder} is corrupt.")
        try:
            return ocp.load(str(self._path(step)), abstract)
        except ValueError as error:
            message = f"Step {step} in {self.folder} was saved by another version"
            raise UserError(f"{message}: {error}") from error

    def restore_newest(self, abstract: Any) -> Any:
        """The state of the newest good step, or None where nothing was saved."""
        for step in reversed(self.steps()):
            try:
                return self.restore(step, abstract)
            except CorruptError as error:
                say(f"{error} It is passed over.")
        anew = f"No checkpoint in {self.folder} is good: to start anew, delete them."
        require(not self.steps(), anew)  # not for a program to decide

    def keep(self, step: int) -> None:
        """Marks a branch point, which is never deleted."""
        self._manifest(step)
        with contextlib.suppress(OSError):  # where no mark can be made none is needed
            self._path(step, ".keep").touch()
        self._manifest(step)  # not deleted meanwhile

    def seal(self, step: int) -> str:
        """What identifies a step and all of its files."""
        self._manifest(step)
        return sha256(self._path(step, ".json"))

    def _manifest(self, step: int) -> dict[str, Any]:
        """The manifest of a step that is there and that this run has trained."""
        none = f"There is no checkpoint of step {step} in {self.folder}"
        require(step in self.steps(), f"{none}; there: {self._listed()}.")
        what = f"Step {step} in {self.folder} is"
        try:
            manifest = json.loads(self._path(step, ".json").read_bytes())
            number, run, _ = (manifest[name] for name in ("step", "run", "files"))
            if number != step:
                raise ValueError("It was renamed.")
        except (ValueError, LookupError, TypeError) as error:
            raise CorruptError(f"{what} corrupt.") from error
        if self.run not in (None, run):
            raise CorruptError(f"{what} another run's.")
        return manifest

    def _listed(self, until: float = math.inf) -> str:
        return ", ".join(map(str, self.steps(until))) or "none"

    def _path(self, step: int, suffix: str = "") -> Path:
        return self.folder.absolute() / f"{step:09d}{suffix}"


def write_json(path: Path, value: Any) -> None:
    write_whole(path, json.dumps(value, indent=2) + "\n")


def _hashes(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): sha256(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def sha256(what: str | Path) -> str:
    """That of a text, or of a file."""
    if isinstance(what, str):
        return hashlib.sha256(os.fsencode(what)).hexdigest()
    with what.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
