"""`python -m examples.gpt VERB`: train, cool down, compare, sample and the rest."""

import io
import re
import shlex
import signal
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import jax
import tyro

from .compare import Compare
from .config import Config, ShapeName, UserError, Verb, require, with_changes
from .data import load_text
from .evaluate import Evaluate, Export, Sample
from .merge import Merge
from .plan import Plan, recommended_length
from .processes import Interrupted, agree, join_processes
from .progress import say, say_done
from .recorder import DivergedError
from .runs import branch_config, find_step, read_manifest
from .tokenize import Tokenize
from .train import run_to_end
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
class Cooldown(Verb):
    """Cool a trunk down from one of its checkpoints, by default as it was trained."""

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

    def __call__(self) -> None:
        trunk, step = find_step(self.from_)
        if step is None:
            raise UserError(f"--from needs RUN@STEP, got {self.from_}.")
        manifest = read_manifest(trunk)
        out = self.out or trunk.parent / f"{trunk.name}-{step}+{self.steps}"
        steps = self.steps
        if steps == "auto" and (out / "run.json").exists():  # it was chosen before
            steps = read_manifest(out)["config"].optimizer.cooldown_steps
        elif steps == "auto":
            steps = recommended_length(trunk, step, self.shape)
            say(f"The law of {trunk} recommends {steps} steps.")
        given = {k: v for k, v in vars(self).items() if v is not None and k != "data"}
        config = branch_config(manifest["config"], step, steps, **given)
        if self.data is not None:
            there = load_text(with_changes(config.data, data=self.data, mix=None))
            is_same = manifest["data"]["identity"].startswith(there.identity)
            require(is_same or not self.mix, "Give --data or --mix.")
            change = {"data": self.data} if is_same else {"mix": f"{self.data}=1"}
            config = with_changes(config, **change)
        text = load_text(config.data)
        say_done(out, run_to_end(out, config, text, (trunk, step)))


VERBS = [Train, Cooldown, Compare, Evaluate, Sample, Merge, Plan, Tokenize, Export]


def parse(arguments: list[str]):
    """The verb that is asked for, with the options that a preset stands for."""
    for word in arguments:
        option = word.partition("=")[0]
        require(option not in HINTS, f"{option} is called {HINTS.get(option)} here.")
    presets = re.findall(r"--preset[= ](\S+)", " ".join(arguments))
    options = " ".join(PRESETS.get(name, "") for name in presets).split()
    words = arguments[:1] + options + arguments[1:]
    verbs = {verb.__name__.lower(): verb for verb in VERBS}
    flat = tyro.conf.OmitSubcommandPrefixes, tyro.conf.OmitArgPrefixes
    return tyro.extras.subcommand_cli_from_dict(
        verbs, prog="python -m examples.gpt", args=words, config=flat
    )


def main(arguments: list[str]) -> int:
    """Runs a verb and returns the exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # paths may be any bytes
            stream.reconfigure(errors="surrogateescape")
    code = 2
    try:
        verb = parse(arguments)
        keep_freed_memory()
        if getattr(verb, "distributed", False):
            join_processes()
            agree("options", verb)
        verb()
        return 0
    except UserError as error:
        sentence = f"error: {error}"
    except OSError as error:
        file = f": {error.filename}" if error.filename else ""
        sentence = f"error: {error.strerror or error}{file}"
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        if not isinstance(error, MemoryError) and "RESOURCE_EXHAUSTED" not in str(
            error
        ):
            raise
        less = "a smaller --batch-size, --sequence-length or --width, or --remat"
        sentence = f"error: not enough memory: try {less}. {error}"
    except DivergedError as error:
        code, sentence = 1, f"stopped: {error}"
    except Interrupted as error:
        command = shlex.join(["python", "-m", "examples.gpt", *arguments])
        say(f"{error} Go on with: {command}")
        return error.exit_code
    print(sentence, file=sys.stderr)
    return code


if __name__ == "__main__":
    if signal.getsignal(signal.SIGINT) == signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # ends compiled code at once too
    sys.exit(main(sys.argv[1:]))
