"""What published runs of a 124M model say of the claims; nothing is trained.

    python -m benchmarks.published --runs FILE

FILE holds the runs of Hägele et al., 2024 (arXiv:2405.18392) and Schaipp et al., 2025
(arXiv:2501.18965), from `data/` of github.com/fabian-sp/lr-scheduling (MIT licence),
one JSON object a line: a Llama-style model on SlimPajama, 15k to 50k steps of 0.1M
tokens, peaks a factor of 2 apart. Losses are nats per token after the last step. Some
settings were run twice: what the two runs differ by is the error of every figure.
What is printed is kept in results/published_124M.json, where the table finds it.
"""

import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import tyro
from scipy import stats

from benchmarks.claims.verdicts import (
    TIE,
    Interval,
    Verdict,
    at_least,
    at_most,
    bottom,
    every,
    power_law,
    within,
)
from optax_wsd import laws

RESULTS = Path(__file__).parent / "results" / "published_124M.json"
LENGTHS = (10, 20, 40, 60, 80, 90)  # of linear cooldowns, in percent
LONGEST = 50_000
ZERO, TENTH, SQRT = "cosine to zero", "cosine to 10 %", "WSD 20 % 1-sqrt"


def linear(percent: int) -> str:
    return f"WSD {percent} %"


class Published:
    """The runs by (method, steps, peak), and how well their losses are known."""

    def __init__(self, path: Path):
        runs = [json.loads(line) for line in path.read_text().splitlines()]
        self.runs = defaultdict(list)
        for run in runs:
            if run["dataset"] == "slimpajama" and (name := method(run)):
                self.runs[name, run["total_steps"], run["peak"]].append(run)
        twice = [v for v in self.runs.values() if len(v) > 1]
        gaps = np.array([np.diff([r["final_val_loss"] for r in v])[0] for v in twice])
        # Of one run; a mean of two would be known better, and is taken as one.
        self.sd = float(np.sqrt(np.mean(gaps**2) / 2))
        self.error = float(stats.t.ppf(0.975, len(gaps)) * self.sd * 2**0.5)

    def loss(self, name: str, steps: int, peak: float) -> float:
        runs = self.runs[name, steps, peak]
        return float(np.mean([run["final_val_loss"] for run in runs]))

    def peaks(self, name: str, steps: int) -> list[float]:
        return sorted(
            p for n, s, p in self.runs if (n, s) == (name, steps) and p < 5e-3
        )

    def tuned(self, name: str, steps: int) -> tuple[float, float]:
        """Peak and loss at the bottom of a parabola in log(peak), or of the grid."""
        peaks = self.peaks(name, steps)
        return bottom(peaks, np.array([self.loss(name, steps, p) for p in peaks]))

    def gap(self, name: str, other: str, steps: int) -> Interval:
        """The difference of two methods, each at its own best peak."""
        ours, theirs = (self.tuned(n, steps)[1] for n in (name, other))
        return Interval(ours - theirs, self.error)

    def log_ratio(self, name: str, other: str, steps: int) -> Interval:
        """Of two best peaks; the error is that of losses that are off by luck."""
        random = np.random.default_rng(0)
        columns = []
        for n in (name, other):
            peaks = self.peaks(n, steps)
            losses = np.array([self.loss(n, steps, p) for p in peaks])
            luck = random.normal(0, self.sd, (1000, len(peaks)))
            columns.append(np.log([bottom(peaks, losses + row)[0] for row in luck]))
        true = np.log(self.tuned(name, steps)[0] / self.tuned(other, steps)[0])
        return Interval(float(true), 1.96 * float(np.std(columns[0] - columns[1])))


def method(run) -> str | None:
    if run["schedule"] == "cos":
        return ZERO if run["lr"][-1] < 0.05 * run["peak"] else TENTH
    if run["schedule"] != "wsd":
        return None
    percent = round(100 * run["cooldown_fraction"])
    if percent == 0:
        return "constant"
    return {"linear": linear(percent), "sqrt": f"WSD {percent} % 1-sqrt"}.get(
        run["cooldown_shape"]
    )


def horizon(runs: Published):
    gaps = {}
    lengths = (15_000, 25_000, 35_000, LONGEST)
    for end in lengths[:-1]:
        at = end - 200  # the last one logged

        def logged(length, at=at):
            peaks = [p for p in (1e-3, 2e-3) if (TENTH, length, p) in runs.runs]
            found = [r for p in peaks for r in runs.runs[TENTH, length, p]]
            return min(r["val_loss"][r["steps"].index(at)] for r in found)

        for longer in lengths[lengths.index(end) + 1 :]:
            gaps[end, longer] = Interval(logged(longer) - logged(end), runs.error)
    figures = [f"at {e:,}, one for {n:,}: {gap}" for (e, n), gap in gaps.items()]
    worse = {"a longer cosine is worse": every(at_least(g) for g in gaps.values())}
    return worse, ["against the cosine to 10 % of that length", *figures]


def against_cosine(runs: Published):
    parts, figures = {}, []
    for other in (TENTH, ZERO):
        gap = runs.gap(SQRT, other, LONGEST)
        parts[f"matches {other}"] = at_most(gap, TIE)
        figures += [f"WSD 20 % − {other} {gap}"]
    figures += [f"{linear(60)} linear − {ZERO} {runs.gap(linear(60), ZERO, LONGEST)}"]
    names = ["constant", SQRT, *map(linear, LENGTHS), TENTH, ZERO]
    tuned = {name: runs.tuned(name, LONGEST) for name in names}
    best = [f"{name} {loss:.4f} ({peak:.1e})" for name, (peak, loss) in tuned.items()]
    return parts, [*figures, "best loss (peak): " + ", ".join(best)]


def best_peak(runs: Published):
    ratio = {
        name: runs.log_ratio(name, ZERO, LONGEST)
        for name in ("constant", SQRT, linear(40), TENTH)
    }
    half = ratio["constant"]
    parts = {
        "constant < WSD 20 %": at_most(runs.log_ratio("constant", SQRT, LONGEST)),
        "WSD 20 % < cosine to zero": at_most(ratio[SQRT]),
        "constant is half of cosine to zero": within(
            Interval(half.mean - np.log(0.5), half.error), np.log(1.25)
        ),
    }
    figures = [
        f"{name} {np.exp(r.mean):.2f} [{np.exp(r.low):.2f}, {np.exp(r.high):.2f}]"
        for name, r in ratio.items()
    ]
    return parts, [f"of cosine to zero's {runs.tuned(ZERO, LONGEST)[0]:.1e}", *figures]


def shape(runs: Published):
    """The two cooldowns of a trunk share its luck: sets of runs give the error."""
    gains = {}
    for peak in runs.peaks(SQRT, LONGEST):
        of_sets = [
            a["final_val_loss"] - b["final_val_loss"]
            for a in runs.runs[SQRT, LONGEST, peak]
            for b in runs.runs[linear(20), LONGEST, peak]
            if a["grad_norm_run"] == b["grad_norm_run"]
        ]
        gains[peak] = of_sets
    twice = [g for g in gains.values() if len(g) > 1]
    sd = np.sqrt(np.mean([np.var(g, ddof=1) for g in twice]))
    error = float(stats.t.ppf(0.975, len(twice)) * sd)
    gain = {peak: Interval(float(np.mean(g)), error) for peak, g in gains.items()}
    low, high = min(gain), max(gain)
    grows = Interval(gain[high].mean - gain[low].mean, error * 2**0.5)
    parts = {
        "1 − √p beats linear": at_most(runs.gap(SQRT, linear(20), LONGEST)),
        "more so at high peaks": at_most(grows),
    }
    return parts, [
        f"1 − √p − linear, tuned {runs.gap(SQRT, linear(20), LONGEST)}",
        *(f"at {peak:.0e} {value}" for peak, value in gain.items()),
    ]


def length(runs: Published):
    gap = {n: runs.gap(linear(n), linear(20), LONGEST) for n in LENGTHS if n != 20}
    parts = {
        "10 % is enough": at_most(gap[10], TIE),
        "levels off at 20 %": every(at_least(gap[n], -TIE) for n in (40, 60)),
    }
    figures = [f"{n} % − 20 % {value}" for n, value in gap.items()]
    for steps in (15_000, LONGEST):
        best = {
            p: min(LENGTHS, key=lambda n: runs.loss(linear(n), steps, p))
            for p in runs.peaks(linear(90), steps)
        }
        peaks = ", ".join(f"{n} % at {p:.0e}" for p, n in best.items())
        figures += [f"best length of {steps:,} steps by peak: {peaks}"]
    return parts, figures


def long_runs(runs: Published):
    budgets = (15_000, 25_000, 35_000, LONGEST)
    cost = {n: runs.gap(linear(10), linear(40), n) for n in budgets}
    cosine = {n: runs.gap(linear(10), TENTH, n) for n in budgets}
    trend = Interval(cost[LONGEST].mean - cost[budgets[0]].mean, runs.error * 2**0.5)
    figures = [f"10 % − 40 % of {n:,} {value}" for n, value in cost.items()]
    figures += [f"10 % − {TENTH} of {n:,} {value}" for n, value in cosine.items()]
    return {"a longer run needs a smaller part": at_most(trend)}, figures


def scaling(runs: Published):
    budgets = (15_000, 25_000, 35_000, LONGEST)
    gaps = {n: runs.gap(linear(20), TENTH, n) for n in budgets}
    branches = sum(budgets) // 5
    share = (0.8 * LONGEST + branches) / sum(budgets)
    ends = [
        power_law(budgets, [runs.tuned(name, n)[1] for n in budgets])[1]
        for name in (linear(20), TENTH)
    ]
    parts = {
        "half the compute": Verdict.HOLDS if share < 0.6 else Verdict.FAILS,
        "no worse at any budget": every(at_most(g, TIE) for g in gaps.values()),
    }
    return parts, [
        f"compute {share:.2f}",
        *(f"WSD 20 % linear − {TENTH} at {n:,} {gap}" for n, gap in gaps.items()),
        f"fitted curves differ by {ends[0] - ends[1]:+.4f} at {2 * LONGEST:,}",
    ]


def relatives(runs: Published):
    ratios = []
    for name in (linear(20), linear(40)):
        first, last = (runs.tuned(name, n)[0] for n in (15_000, LONGEST))
        ratios += [f"{name} times {last / first:.2f}"]
    return {}, [
        "no run of the three; the best peak of WSD from 15,000 to 50,000 steps: "
        + ", ".join(ratios)
    ]


def loss_laws(runs: Published, peak: float = 1e-3):
    """The law from a constant run and one cooldown; the bound from schedules alone."""
    fitted = ("constant", linear(20))
    law = laws.fit_loss_law([curve(runs.runs[n, LONGEST, peak][0]) for n in fitted])
    names = [SQRT, *map(linear, LENGTHS), linear(99), TENTH, ZERO, "constant"]
    errors, tuned, bounds = [], [], []
    for name in names:
        run = runs.runs[name, LONGEST, peak][0]
        rates, steps, losses = curve(run)
        tuned += [runs.tuned(name, LONGEST)[1]]
        bounds += [laws.optimal_scale(rates[:: len(rates) // 1000])[1]]
        if name not in fitted:
            errors += [float(law.predict(rates, int(steps[-1]))) - losses[-1]]
    rank = np.corrcoef(stats.rankdata(bounds), stats.rankdata(tuned))[0, 1]
    mean, worst = np.mean(np.abs(errors)), np.max(np.abs(errors))
    parts = {"predicts other schedules within 0.01": at_most(Interval(worst, 0), 0.01)}
    return parts, [
        f"mean error {mean:.4f}, worst {worst:.4f} over {len(errors)} schedules "
        f"of {LONGEST:,} steps at {peak:.0e}; the law's constants were chosen with "
        "runs of this model",
        f"the convex bound ranks {len(names)} methods at their best peaks with a "
        f"Spearman correlation of {rank:.2f}",
    ]


def curve(run) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The rate of every update, the warmup and the trunk before the log included."""
    steps, warmup = np.array(run["steps"]), run["warmup_steps"]
    logged_rates = np.array(run["lr"], float)  # the first may not be known
    known = (steps > warmup) & np.isfinite(logged_rates)
    at = np.concatenate([[0, warmup], steps[known]])
    values = np.concatenate([[0, run["peak"]], logged_rates[known]])
    rates = np.interp(np.arange(steps[-1] + 1), at, values)
    logged = steps > warmup
    return rates, steps[logged], np.array(run["val_loss"])[logged]


CLAIMS = {
    1: horizon,
    2: against_cosine,
    3: best_peak,
    4: shape,
    5: length,
    6: long_runs,
    10: scaling,
    11: relatives,
    14: loss_laws,
}


def main(runs: Path) -> None:
    """Prints and keeps what the runs in a file say.

    Args:
        runs: The published runs, one JSON object a line.
    """
    published = Published(runs)
    found = {}
    for number, test in CLAIMS.items():
        parts, figures = test(published)
        found[number] = {
            "parts": {text: verdict.value for text, verdict in parts.items()},
            "figures": figures,
        }
    text = json.dumps(found, indent=1, ensure_ascii=False) + "\n"
    RESULTS.write_text(text)
    print(f"{text}one run is known to {published.sd:.4f}")


if __name__ == "__main__":
    tyro.cli(main)
