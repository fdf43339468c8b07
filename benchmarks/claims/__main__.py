"""The papers' claims, tested: python -m benchmarks.claims --help"""

import dataclasses
import os
from typing import Literal

import tyro


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Tests what papers claim of schedules and averages on a small language model.

    Every run is a line of benchmarks/results/claims_SCALE.jsonl and is never made
    twice: stop and start as you like. At the end the tables and the pictures are
    made from all lines.
    """

    # Numbers of the claims to run; all by default.
    only: tuple[int, ...] = ()
    # Seeds of every run.
    seeds: int = 5
    # Size of the model and of the runs.
    scale: Literal["cpu", "gpu"] = "cpu"
    # A fifth of the steps, printed and not written to the README.
    quick: bool = False
    # Train nothing: print what the finished runs say.
    list: bool = False
    # Train nothing: say how many steps are missing.
    plan: bool = False
    # Train nothing: write the table and the pictures of the finished runs.
    report: bool = False


def main(arguments: Arguments) -> None:
    if arguments.scale == "cpu":
        # Each run on a core of its own: faster than any number of runs in one vmap.
        os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2 " + (
            os.environ.get("XLA_FLAGS", "")
        )
    import jax

    from . import report
    from .engine import STATES, Lab
    from .settings import SCALES, quick

    jax.config.update("jax_compilation_cache_dir", str(STATES / "programs"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    scale = SCALES[arguments.scale]
    if arguments.quick:
        scale = quick(scale)
    lab = Lab(scale, report.results(scale))
    claims = [report.CLAIMS[n] for n in arguments.only or sorted(report.CLAIMS)]
    if arguments.list:
        print(report.page(scale, report.find_all(lab)))
        return
    # What a claim asks for next may hang on what it has found: grids are widened.
    while not arguments.report:
        found = [report.find(lab, claim, [arguments.seeds]) for claim in claims]
        if arguments.plan:
            lab.missing()
            return
        if not lab.wanted:
            for claim, measured in zip(claims, found, strict=True):
                report.show(claim, measured)
            break
        lab.train()
    if not arguments.quick:
        report.write(lab)


if __name__ == "__main__":
    main(tyro.cli(Arguments))
