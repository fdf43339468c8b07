"""Claim 15: a model at any time, from a rate that falls and an average."""

import numpy as np

from .c06_long_runs import FRACTIONS, lengths
from .pictures import curves
from .study import Finding, Study, best, claim
from .verdicts import TIE, at_most, difference, every

GAMMAS = (4, 8, 12, 20)


@claim(
    "1/√t under a power average is a good model at any time",
    "Anytime pretraining, arXiv:2602.03702",
)
def test(study: Study) -> Finding:
    scale = study.scale
    totals, usual = lengths(study)

    def falling(peak):
        return study.inverse_sqrt(peak, 4 * scale.warmup_steps)

    def make(schedule, total, gamma):
        average = {"name": "power_ema", "gamma": gamma}
        return lambda p: {"schedule": schedule(p), "steps": total, "average": average}

    schedules = {"constant": study.constant, "1/√t": falling}
    methods = {
        (name, total, gamma): make(schedule, total, gamma)
        for name, schedule in schedules.items()
        for total in totals
        for gamma in GAMMAS
    }
    rungs = {k: (-3, -2, -1) if k[0] == "constant" else (-1, 0, 1) for k in methods}
    tuned = study.tune(methods, rungs)
    sides = {
        (name, n): [tuned[name, n, gamma] for gamma in GAMMAS]
        for name in schedules
        for n in totals
    }
    sides |= {("WSD", n): [usual[n, f] for f in FRACTIONS] for n in totals}
    gap = {
        (other, n): difference(best(sides["1/√t", n]).loss, best(sides[other, n]).loss)
        for other in ("constant", "WSD")
        for n in totals
    }
    # One peak and one gamma for all lengths, against the best of each.
    common = {
        (peak, gamma): np.sum(
            [tuned["1/√t", n, gamma].losses[peak] for n in totals], axis=0
        )
        for gamma in GAMMAS
        for peak in set.intersection(
            *(set(tuned["1/√t", n, gamma].losses) for n in totals)
        )
    }
    peak, gamma = min(common, key=lambda key: common[key][:, 0].mean())
    one = {n: tuned["1/√t", n, gamma].losses[peak][:, 1] for n in totals}
    price = {n: difference(one[n], best(sides["1/√t", n]).loss) for n in totals}
    lines = {
        f"{name}": {n: best(sides[name, n]).loss for n in totals}
        for name in ("constant", "1/√t", "WSD")
    }
    return Finding(
        {
            "better than the average of a constant run": every(
                at_most(gap["constant", n]) for n in totals
            ),
            "matches WSD tuned for each length": every(
                at_most(gap["WSD", n], TIE) for n in totals
            ),
            "one peak and one average serve all lengths": every(
                at_most(price[n], TIE) for n in totals
            ),
        },
        [
            *(f"1/√t − {other} at {n} {value}" for (other, n), value in gap.items()),
            f"peak {peak:g} and gamma {gamma} at every length, against the best: "
            + ", ".join(str(value) for value in price.values()),
        ],
        {f"{name}, {n}": grids for (name, n), grids in sides.items()},
        lambda axes: curves(axes, lines, "steps, evaluated on the way"),
    )
