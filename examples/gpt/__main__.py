"""`python -m examples.gpt VERB`: train, cool down, compare, sample."""

import os
import shlex
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

import jax
import tyro

from .compare import Compare
from .config import Config, ShapeName, UserError
from .data import load_text
from .merge import Merge
from .plan import Plan, advised_length
from .progress import say, say_done
from .runs import branch_config, find_step, read_manifest
from .sample import Sample
from .signals import Interrupted, Signals
from .train import DivergedError, run_to_end
from .trainer import check_devices, keep_freed_memory


@dataclass(frozen=True)
class Train:
    """Train a run: a stable trunk, or one with its cooldown planned."""

    # The run's folder; the same command goes on where it stopped.
    out: Path = Path("runs/trunk")
    config: Config = field(default_factory=Config)
    # One process of many: call jax.distributed.initialize first.
    distributed: bool = False

    def __call__(self, signals: Signals) -> None:
        check_devices(self.config.loop)
        text = load_text(self.config.data)
        say_done(self.out, run_to_end(self.out, self.config, text, signals))


@dataclass(frozen=True)
class Cooldown:
    """Cool a trunk down from one of its checkpoints, in a folder of its own."""

    # The trunk and the step to leave it at: RUN@STEP.
    from_: Annotated[str, tyro.conf.arg(name="from")]
    # Length of the cooldown; auto asks the law of the trunk's loss.
    steps: int | Literal["auto"]
    shape: ShapeName = "one_minus_sqrt"
    # Default: beside the trunk.
    out: Path | None = None
    # The trunk's text, if it was moved.
    data: Path | None = None
    # Must be the trunk's, if given.
    peak: float | None = None
    distributed: bool = False

    def __call__(self, signals: Signals) -> None:
        trunk, step = find_step(self.from_)
        if step is None:
            raise UserError(f"--from needs RUN@STEP, got {self.from_}.")
        config = read_manifest(trunk)["config"]
        peak = config.optimizer.peak if self.peak is None else self.peak
        out = self.out or trunk.parent / f"{trunk.name}-{step}+{self.steps}"
        steps = self._advised(trunk, step, out) if self.steps == "auto" else self.steps
        config = branch_config(config, step, steps, shape=self.shape, peak=peak)
        if self.data is not None:
            config = replace(config, data=replace(config.data, data=self.data))
        text = load_text(config.data)
        say_done(out, run_to_end(out, config, text, signals, (trunk, step)))

    def _advised(self, trunk: Path, step: int, out: Path) -> int:
        if (out / "run.json").exists():  # go on with the length advised before
            return read_manifest(out)["config"].optimizer.cooldown_steps
        steps = advised_length(trunk, step, self.shape)
        say(f"The law of {trunk} advises {steps} steps.")
        return steps


Verb = Annotated[
    Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Cooldown, tyro.conf.subcommand("cooldown")]
    | Annotated[Compare, tyro.conf.subcommand("compare")]
    | Annotated[Sample, tyro.conf.subcommand("sample")]
    | Annotated[Merge, tyro.conf.subcommand("merge")]
    | Annotated[Plan, tyro.conf.subcommand("plan")],
    tyro.conf.OmitSubcommandPrefixes,
    tyro.conf.OmitArgPrefixes,
]


def main(arguments: list[str]) -> int:
    """Runs a verb and returns the exit code."""
    try:
        verb = tyro.cli(Verb, prog="python -m examples.gpt", args=arguments)
        keep_freed_memory()
        if verb.distributed:
            _join_processes()
        with Signals() as signals:
            verb(signals)
    except UserError as error:
        return _fail(f"error: {error}", 2)
    except OSError as error:
        file = f": {error.filename}" if error.filename else ""
        return _fail(f"error: {error.strerror or error}{file}", 2)
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        exhausted = isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)
        if not exhausted:
            raise
        less = "a smaller --batch-size, --sequence-length or --width, or --remat"
        return _fail(f"error: not enough memory: try {less}. {error}", 2)
    except DivergedError as error:
        return _fail(f"stopped: {error}", 1)
    except Interrupted as error:
        command = shlex.join(["python", "-m", "examples.gpt", *arguments])
        say(f"{error} Go on with: {command}")
        return error.exit_code
    return 0


def _join_processes() -> None:
    """Joins the other processes, where JAX finds them itself or as variables say."""
    count, index = map(os.environ.get, ("JAX_NUM_PROCESSES", "JAX_PROCESS_ID"))
    try:
        jax.distributed.initialize(
            num_processes=None if count is None else int(count),
            process_id=None if index is None else int(index),
        )
    except ValueError as error:
        raise UserError(f"--distributed finds no other processes: {error}") from error


def _fail(sentence: str, code: int) -> int:
    print(sentence, file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
