"""`python -m examples.gpt VERB`: train, cool down, compare, sample and the rest."""

import io
import re
import shlex
import signal
import sys
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Literal

import jax
import tyro

from .compare import Compare
from .config import Config, ShapeName, UserError, Verb, require, with_changes
from .data import load_text
from .evaluate import Evaluate, Export
from .merge import Merge
from .plan import Plan, advised_length
from .processes import agree, join_processes
from .progress import say, say_done
from .runs import branch_config, find_step, read_manifest
from .sample import Sample
from .signals import Interrupted
from .tokenize import Tokenize
from .train import DivergedError, run_to_end
from .trainer import check_devices, keep_freed_memory

# The options that a name stands for; others that are given win. Sizes, batches and
# lengths are those of Haegele et al. (2024, arXiv:2405.18392): Llama-like models, with
# GPT-2's vocabulary. The first peak is the best in their logs for a cooldown of 20 %,
# the second what optax_wsd.laws.deepseek_learning_rate gives for 1.6e19 flops.
LLAMA = "--vocabulary 50304 --tied --sequence-length 512 --snapshot-every 2500"
PRESETS = {
    "gpt2-small": f"{LLAMA} --width 768 --depth 12 --heads 12 --batch-size 200 "
    "--peak 1.1e-3 --warmup-steps 300 --steps 50000 --eval-every 500 --save-every 500",
    "350m": f"{LLAMA} --width 1024 --depth 24 --heads 16 --batch-size 400 --remat "
    "--peak 1.2e-3 --warmup-steps 300 --steps 37500 --eval-every 500 --save-every 500",
}
HINTS = {"--lr": "--peak", "--learning-rate": "--peak", "--epochs": "--steps"}


@dataclass(frozen=True)
class Train(Verb):
    """Train a run: a stable trunk, or one with its cooldown planned."""

    # The run's folder; the same command goes on where it stopped.
    out: Path = Path("runs/trunk")
    # Sizes, rates and lengths of published runs, for all options that are not given.
    preset: Literal["gpt2-small", "350m"] | None = None
    # Everything else.
    config: Config = field(default_factory=Config)

    def __call__(self) -> None:
        check_devices(self.config.loop)
        text = load_text(self.config.data)
        say_done(self.out, run_to_end(self.out, self.config, text))


@dataclass(frozen=True)
class Changes:
    """What a cooldown may do otherwise than its trunk; by default it does the same."""

    # The learning rate that it falls from.
    peak: float | None = None
    # Decay of all weights but the norms'.
    weight_decay: float | None = None
    # Memory of the squared gradient.
    b2: float | None = None
    # Sequences in a step, over all devices.
    batch_size: int | None = None
    # Micro-batches that make up one step.
    accumulate: int | None = None
    # Steps between two evaluations.
    eval_every: int | None = None
    # Steps between two checkpoints.
    save_every: int | None = None
    # Steps between two printed lines.
    log_every: int | None = None
    # Another text, and its share of the rows of every batch, such as PATH=0.3.
    mix: str | None = None


@dataclass(frozen=True)
class Cooldown(Verb):
    """Cool a trunk down from one of its checkpoints, in a folder of its own."""

    # The trunk and the step to leave it at: RUN@STEP.
    from_: Annotated[str, tyro.conf.arg(name="from")]
    # Length of the cooldown; auto asks the law of the trunk's loss.
    steps: int | Literal["auto"]
    # Shape of the cooldown.
    shape: ShapeName = "one_minus_sqrt"
    # Default: beside the trunk.
    out: Path | None = None
    # Where the trunk's text is now, or another text to train on in its place.
    data: Path | None = None
    # What else it changes.
    changes: Changes = field(default_factory=Changes)

    def __call__(self) -> None:
        trunk, step = find_step(self.from_)
        if step is None:
            raise UserError(f"--from needs RUN@STEP, got {self.from_}.")
        manifest = read_manifest(trunk)
        out = self.out or trunk.parent / f"{trunk.name}-{step}+{self.steps}"
        steps = self._advised(trunk, step, out) if self.steps == "auto" else self.steps
        given = {f.name: getattr(self.changes, f.name) for f in fields(Changes)}
        given = {name: value for name, value in given.items() if value is not None}
        config = branch_config(
            manifest["config"], step, steps, shape=self.shape, **given
        )
        text = load_text(config.data)
        if self.data is not None:
            moved = load_text(with_changes(config.data, data=self.data, mix=None))
            is_same = moved.sha256 == manifest["data"]["sha256"]
            require(is_same or config.data.mix is None, "Give --data or --mix.")
            change = {"data": self.data} if is_same else {"mix": f"{self.data}=1"}
            config = with_changes(config, **change)
            text = load_text(config.data)
        say_done(out, run_to_end(out, config, text, (trunk, step)))

    def _advised(self, trunk: Path, step: int, out: Path) -> int:
        if (out / "run.json").exists():  # go on with the length advised before
            return read_manifest(out)["config"].optimizer.cooldown_steps
        steps = advised_length(trunk, step, self.shape)
        say(f"The law of {trunk} advises {steps} steps.")
        return steps


Verbs = Annotated[
    Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Cooldown, tyro.conf.subcommand("cooldown")]
    | Annotated[Compare, tyro.conf.subcommand("compare")]
    | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
    | Annotated[Sample, tyro.conf.subcommand("sample")]
    | Annotated[Merge, tyro.conf.subcommand("merge")]
    | Annotated[Plan, tyro.conf.subcommand("plan")]
    | Annotated[Tokenize, tyro.conf.subcommand("tokenize")]
    | Annotated[Export, tyro.conf.subcommand("export")],
    tyro.conf.OmitSubcommandPrefixes,
    tyro.conf.OmitArgPrefixes,
]


def parse(arguments: list[str]):
    """The verb that is asked for, with the options that a preset stands for."""
    for word in arguments:
        option = word.partition("=")[0]
        require(option not in HINTS, f"{option} is called {HINTS.get(option)} here.")
    presets = re.findall(r"--preset[= ](\S+)", " ".join(arguments))
    options = " ".join(PRESETS.get(name, "") for name in presets).split()
    words = arguments[:1] + options + arguments[1:]
    return tyro.cli(Verbs, prog="python -m examples.gpt", args=words)


def main(arguments: list[str]) -> int:
    """Runs a verb and returns the exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # paths may be any bytes
            stream.reconfigure(errors="surrogateescape")
    try:
        verb = parse(arguments)
        keep_freed_memory()
        if getattr(verb, "distributed", False):
            join_processes()
            agree("options", verb)
        verb()
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


def _fail(sentence: str, code: int) -> int:
    print(sentence, file=sys.stderr)
    return code


if __name__ == "__main__":
    if signal.getsignal(signal.SIGINT) == signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # ends compiled code at once too
    sys.exit(main(sys.argv[1:]))
