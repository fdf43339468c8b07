"""Claim 15: a model at any time, from a rate that falls and an average."""

import numpy as np

from .pictures import curves
from .study import Finding, Study, best, claim
from .verdicts import TIE, at_most, difference, every

GAMMAS = (4, 8, 12, 20)
FRACTIONS = (0.05, 0.1, 0.2, 0.4)  # of WSD: as many


@claim(
    "1/√t under a power average is a good model at any time",
    "Anytime pretraining, arXiv:2602.03702",
)
def test(study: Study) -> Finding:
    scale = study.scale
    totals = [scale.at(0.5), scale.at(1), scale.at(2)]

    def falling(peak):
        return study.inverse_sqrt(peak, 4 * scale.warmup_steps)

    def make(name, total, number):
        if name == "WSD":
            cooldown = scale.chunks(number * total)
            return lambda p: {"schedule": study.wsd(p, total, cooldown), "steps": total}
        schedule = falling if name == "1/√t" else study.constant
        average = {"name": "power_ema", "gamma": number}
        return lambda p: {"schedule": schedule(p), "steps": total, "average": average}

    numbers = {"constant": GAMMAS, "1/√t": GAMMAS, "WSD": FRACTIONS}
    keys = [(name, n, x) for name in numbers for n in totals for x in numbers[name]]
    rungs = {k: (-3, -2, -1) if k[0] == "constant" else (-1, 0, 1) for k in keys}
    methods = {key: make(*key) for key in keys}
    tuned = study.tune(methods, rungs, beside=lambda key: key[1])
    sides = {
        (name, n): [tuned[name, n, x] for x in numbers[name]]
        for name in numbers
        for n in totals
    }
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
        f"{name}": {n: best(sides[name, n]).loss for n in totals} for name in numbers
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
