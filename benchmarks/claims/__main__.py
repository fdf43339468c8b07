"""The papers' claims, tested: python -m benchmarks.claims --help"""

import dataclasses
import os
from typing import Literal

import tyro


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Tests what papers claim of schedules and averages on a small language model.

    Every run is a line of benchmarks/results/claims_SCALE.jsonl and is never made
    twice: stop and start as you like. At the end the table in benchmarks/README.md and
    the pictures are made from all lines.
    """

    # Numbers of the claims to run; all by default.
    only: tuple[int, ...] = ()
    # Seeds of every run.
    seeds: int = 3
    # Size of the model and of the runs.
    scale: Literal["cpu", "gpu"] = "cpu"
    # A fifth of the steps, printed and not written to the README.
    quick: bool = False
    # Train nothing: say what each claim is and what the finished runs say of it.
    list: bool = False
    # Train nothing: make the table and the pictures from the finished runs.
    report: bool = False


def main(arguments: Arguments) -> None:
    if arguments.scale == "cpu":
        # Each run on a core of its own: faster than any number of runs in one vmap.
        os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2 " + (
            os.environ.get("XLA_FLAGS", "")
        )
    import jax

    from . import report
    from .claims import CLAIMS
    from .engine import STATES, Lab, Plan
    from .settings import SCALES, quick
    from .study import Study

    jax.config.update("jax_compilation_cache_dir", str(STATES / "programs"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    scale = SCALES[arguments.scale]
    if arguments.quick:
        scale = quick(scale)
    results = report.HERE / "results" / f"claims_{scale.name}.jsonl"
    lab, seeds = Lab(scale, results), range(arguments.seeds)
    claims = [CLAIMS[number] for number in arguments.only or sorted(CLAIMS)]
    if not (arguments.list or arguments.report):
        plan = Plan()
        for claim in claims:
            report.find(Study(plan, scale, seeds), claim)
        lab.train(plan.runs)
    study = Study(lab, scale, seeds)
    for claim in claims:
        finding = report.find(study, claim)
        print(f"\n{claim.number}. {claim.text}\n   {claim.source}")
        if finding is None:
            print("   not measured")
        else:
            print(f"   {study.answered} seeds: {finding.ours}\n   {finding.verdict}")
    if not (arguments.list or arguments.quick):
        # Claims with more seeds than were asked for now keep them.
        every = Study(lab, scale, range(max(arguments.seeds, 5)))
        report.write(every, report.HERE / "README.md")


if __name__ == "__main__":
    main(tyro.cli(Arguments))
