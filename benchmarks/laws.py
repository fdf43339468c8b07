"""How well a loss law, fitted to a trunk and one branch, predicts other cooldowns.

    python -m benchmarks.laws --curves DIR --published-runs FILE
    python -m benchmarks.laws --make 400k:0:4e-3 80k:1:8e-3 --runs OTHER

The trunk up to the step where a cooldown starts, and the latest branch that had ended
by 1.1 times that step, predict the last loss of that cooldown. Short runs of two small
GPTs lie in `results/laws_cpu.jsonl`; `--make SIZE:SEED:PEAK` adds others to it, or to
the file that `--runs` names. Where averages of a trunk were evaluated, those of its
later half are added to the branch, and then take its place. The second table lets the
law choose between two lengths of cooldown, as `compare --steps auto` does. The
other data are not part of this project: DIR has `25M` and `100M`, folders of CSV files
of Luo et al., 2025 (github.com/thu-yao-01-luo/MultiPowerLaw, `loss_curve_repo/`, MIT
licence), and FILE has the runs of a 124M model of github.com/fabian-sp/lr-scheduling
(MIT licence), one JSON object a line.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from optax_wsd import gamma_from_width, laws, wsd_schedule
from optax_wsd.shapes import linear, one_minus_sqrt

Curve = tuple[np.ndarray, np.ndarray, np.ndarray]  # rates, steps and losses
RUNS = Path(__file__).parent / "results" / "laws_cpu.jsonl"
GAMMA = gamma_from_width(0.10)  # of the averages of the small runs
AVERAGED = "branch and averages"
STABLE = "constant_24000"
BRANCHES = (
    "wsdcon_9",
    "wsdcon_3",
    "wsdcon_18",
    "wsdld_20000_24000",
    "wsd_20000_24000",
)


@dataclass(frozen=True)
class Case:
    """A trunk and a branch that are known, and a run whose last loss is asked for."""

    group: str
    trunk: Curve
    branch: Curve
    asked: Curve
    averages: Curve | None = None  # losses of the trunk's average

    def law(self, use: str = "branch") -> laws.LossLaw:
        """Of the trunk and its branch, its branch and averages, or its averages."""
        runs = [self.trunk] if use == "averages" else [self.trunk, self.branch]
        if use == "branch":
            return laws.fit_loss_law(runs)
        assert self.averages is not None
        rates, steps, losses = self.averages
        end = self.trunk[1][-1]
        late = (steps >= end / 2) & (steps <= end)
        return laws.fit_loss_law(runs, [(GAMMA, (rates, steps[late], losses[late]))])

    def score(self, use: str = "branch") -> tuple[float, float, float]:
        """Errors of the law and of the line, and the half-width of the interval."""
        rates, steps, losses = self.asked
        law = self.law(use)
        low, high = law.predict_interval(rates, steps[-1])
        line = trunk_line(self) - losses[-1]
        return float(low + high) / 2 - losses[-1], line, float(high - low) / 2


def trunk_line(case: Case) -> float:
    """The trunk's line in log steps, of its later half, less the last branch's gain."""
    _, steps, losses = case.trunk
    late = steps >= steps[-1] / 2
    line = np.polynomial.Polynomial.fit(np.log(steps[late]), losses[late], 1)
    branch_end, asked_end = case.branch[1][-1], case.asked[1][-1]
    gain = line(np.log(branch_end)) - case.branch[2][-1]
    if branch_end <= steps[-1]:
        gain = np.interp(branch_end, steps, losses) - case.branch[2][-1]
    return float(line(np.log(asked_end)) - gain)


def pair(
    group: str, trunk: Curve, branches: list[Any], averages: Curve | None = None
) -> Iterator[Case]:
    """Each cooldown, with the latest branches that had ended by about its start."""
    for start, asked in branches:
        ended = [b for _, b in branches if b[1][-1] < asked[1][-1]]
        ended = [b for b in ended if len(b[0]) <= 1.1 * start]
        latest = max((len(b[0]) for b in ended), default=0)
        seen = trunk[1] <= start
        known = trunk[0], trunk[1][seen], trunk[2][seen]
        for branch in ended:
            if len(branch[0]) == latest:
                yield Case(group, known, branch, asked, averages)


def published(file: Path) -> Iterator[Case]:
    """Cooldowns of the 124M model, paired at each peak."""
    runs = [json.loads(line) for line in file.read_text().splitlines()]
    runs = [r for r in runs if r["schedule"] == "wsd" and not r["grad_norm_run"]]
    runs = [r for r in runs if r["dataset"] == "slimpajama" and r["cooldown_shape"]]
    for peak in sorted({r["peak"] for r in runs}):
        curves = []
        for run in (r for r in runs if r["peak"] == peak):
            total = run["total_steps"]
            length = round(total * run["cooldown_fraction"])
            shape = linear if run["cooldown_shape"] == "linear" else one_minus_sqrt
            rates = warmed_rates(peak, 300, total, length, shape)
            steps, losses = np.array(run["steps"]), np.array(run["val_loss"])
            curve = rates, steps[steps > 0], losses[steps > 0]
            curves.append((total - length, curve))
        (trunk,) = (curve for start, curve in curves if start == len(curve[0]))
        branches = [(s, c) for s, c in curves if s < len(c[0])]
        yield from pair(f"124M, {peak:g}", trunk, branches)


def curves_of(folder: Path, warmup_steps: int = 2160) -> Iterator[Case]:
    """One size of Luo et al.: from the stable run and a branch to all other runs."""
    runs = {}
    for path in folder.glob("*.csv"):
        steps, rates, losses = np.loadtxt(path, delimiter=",", skiprows=1).T
        at = np.concatenate([[0, warmup_steps], steps])
        logged = np.concatenate([[0, rates[0]], rates])
        every = np.interp(np.arange(int(steps[-1]) + 1), at, logged)
        runs[path.stem] = every, steps.astype(int), losses
    for branch in BRANCHES:
        for name in sorted(runs.keys() - {STABLE, branch}):
            group = f"{folder.name}, {branch.split('_2')[0]}"
            yield Case(group, runs[STABLE], runs[branch], runs[name])


def small(file: Path) -> Iterator[Case]:
    """Cooldowns of the small models, paired for each seed and peak."""
    runs = [json.loads(line) for line in file.read_text().splitlines()]
    names = {(r["size"], r["seed"], r["peak"]): None for r in runs}
    for name in names:
        curves, averages = [], None
        for run in runs:
            if (run["size"], run["seed"], run["peak"]) == name:
                rates, steps = rates_of(run), np.array(run["steps"])
                curves.append((run["start"], (rates, steps, np.array(run["losses"]))))
                if "averages" in run:
                    averages = rates, steps, np.array(run["averages"])
        (trunk,) = (curve for start, curve in curves if start is None)
        branches = [(s, c) for s, c in curves if s is not None]
        yield from pair("{}, seed {}, {:g}".format(*name), trunk, branches, averages)


def rates_of(run: dict[str, Any]) -> np.ndarray:
    """The rate of every update of a small run."""
    start = run["end"] if run["start"] is None else run["start"]
    shape = linear if run["shape"] == "linear" else one_minus_sqrt
    length = run["end"] - start
    return warmed_rates(run["peak"], run["warmup"], run["end"], length, shape)


def warmed_rates(peak, warmup_steps, total, cooldown_steps, shape) -> np.ndarray:
    """WSD whose first update has a rate above 0."""
    schedule = wsd_schedule(
        peak,
        total,
        init_value=peak / warmup_steps,
        warmup_steps=min(warmup_steps, total - cooldown_steps),
        cooldown_steps=cooldown_steps,
        shape=shape,
    )
    return np.asarray(schedule(np.arange(total)), np.float64)


def main(
    curves: Path | None = None,
    published_runs: Path | None = None,
    make: tuple[str, ...] = (),
    runs: Path = RUNS,
) -> None:
    """Prints the tables, or makes small runs.

    Args:
        curves: Folder with one folder of CSV files for each model size.
        published_runs: JSON lines of the 124M model.
        make: Small runs to add, each as SIZE:SEED:PEAK with a size of 80k or 400k.
        runs: JSON lines of the small runs.
    """
    if make:
        from .laws_runs import make_runs

        return make_runs(make, runs, rates_of)
    cases = short = list(small(runs)) if runs.exists() else []
    if published_runs:
        cases = [*cases, *published(published_runs)]
    for folder in sorted(curves.iterdir()) if curves else []:
        if folder.is_dir():
            cases = [*cases, *curves_of(folder)]
    print("| group | cases | refused | law | line | 90 % interval | half-width |")
    print("|---|--:|--:|--:|--:|--:|--:|")
    scores: dict[str, list[tuple[float, float, float]]] = {}
    for case in cases:
        try:
            scores.setdefault(case.group, []).append(case.score())
        except ValueError:
            scores[case.group].append((np.nan, np.nan, np.nan))
    for group, values in scores.items():
        print_row(group, np.array(values))
    print_row("all", np.concatenate([np.array(v) for v in scores.values()]))
    for use in (AVERAGED, "averages"):
        averaged: dict[str, list[tuple[float, float, float]]] = {}
        for case in short:
            if case.averages is not None:
                averaged.setdefault(case.group, []).append(case.score(use))
        for group, values in averaged.items():
            print_row(f"{group}: {use}", np.array(values))
    print("\n| group | ends | chosen - long share | chosen - short share |")
    print("|---|--:|--:|--:|")
    for group in dict.fromkeys(case.group for case in short):
        print_choices(group, [case for case in short if case.group == group])


def print_choices(group: str, cases: list[Case]) -> None:
    """Of the cooldowns to each end the law chooses one, when the first would start."""
    gains = []
    for end in sorted({case.asked[1][-1] for case in cases}):
        ending = [case for case in cases if case.asked[1][-1] == end]
        ending.sort(key=lambda case: case.trunk[1][-1])
        law = ending[0].law("branch" if ending[0].averages is None else AVERAGED)
        ends = [(law.predict(c.asked[0], end), c.asked[2][-1]) for c in ending]
        chosen = min(ends)[1]
        gains.append((chosen - ends[0][1], chosen - ends[-1][1]))
    each = [mean_and_error(x) for x in np.array(gains).T]
    print(f"| {group} | {len(gains)} | {' | '.join(each)} |", flush=True)


def mean_and_error(x: np.ndarray) -> str:
    if len(x) == 1:
        return f"{x[0]:+.4f}"
    return f"{np.mean(x):+.4f} ± {np.std(x, ddof=1) / np.sqrt(len(x)):.4f}"


def print_row(group: str, scores: np.ndarray) -> None:
    """Mean / worst error in thousandths of a nat, and how often the interval holds."""
    accepted = scores[~np.isnan(scores[:, 0])]
    law, line, width = 1e3 * np.abs(accepted).T
    held = np.mean(law <= width)
    print(
        f"| {group} | {len(law)} | {len(scores) - len(law)} "
        f"| {law.mean():.1f} / {law.max():.1f} | {line.mean():.1f} / {line.max():.1f} "
        f"| {held:.0%} | {width.mean():.1f} |",
        flush=True,
    )


if __name__ == "__main__":
    tyro.cli(main)
