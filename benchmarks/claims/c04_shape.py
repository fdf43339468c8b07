"""Claim 4: shapes of a cooldown of 20 %, peak by peak and each at its best."""

import numpy as np

from .pictures import curves
from .specs import SHAPES
from .study import Finding, Study, claim
from .verdicts import at_most, difference, interval

PAIR = ("one_minus_sqrt", "linear")


@claim(
    "1 − √p beats linear, more so at high peaks; other shapes",
    "Hägele et al. 2405.18392",
)
def test(study: Study) -> Finding:
    scale, total = study.scale, study.scale.steps

    def make(name):
        return lambda p: {"schedule": study.wsd(p, total, scale.at(0.2), name)}

    tuned = study.tune(
        {name: make(name) for name in SHAPES},
        {name: range(-2, 3) if name in PAIR else (-1, 0, 1) for name in SHAPES},
    )
    sqrt, linear = (tuned[name].losses for name in PAIR)
    peaks = sorted(set(sqrt) & set(linear))
    gain = {peak: sqrt[peak][:, 1] - linear[peak][:, 1] for peak in peaks}
    # Of every seed: nats for each doubling of the peak.
    slope = np.polyfit(np.log2(peaks), np.array(list(gain.values())), 1)[0]
    # Shapes share their trunk, and its luck: all are compared at one peak, the best of
    # the two, which differ by less than peaks do.
    common = set.intersection(*(set(grid.losses) for grid in tuned.values()))
    shared = min(common, key=lambda p: (sqrt[p] + linear[p])[:, 0].mean())
    gap = {
        name: difference(grid.losses[shared][:, 1], linear[shared][:, 1])
        for name, grid in tuned.items()
    }
    order = sorted(gap, key=lambda name: gap[name].mean)
    by_peak = {
        name: {
            p: v[:, 1] - linear[p][:, 1]
            for p, v in sorted(grid.losses.items())
            if p in linear
        }
        for name, grid in tuned.items()
    }
    return Finding(
        {
            "1 − √p beats linear": at_most(gap["one_minus_sqrt"]),
            "more so at high peaks": at_most(interval(slope)),
        },
        [
            f"1 − √p − linear at {shared:g}, the best for both {gap['one_minus_sqrt']}",
            *(f"at {p:g} {interval(g)}" for p, g in gain.items()),
            "all at that peak, against linear: "
            + ", ".join(f"{name} {gap[name]}" for name in order if name != "linear"),
        ],
        {name: [tuned[name]] for name in order},
        lambda axes: curves(
            axes, by_peak, "peak learning rate", "loss − that of linear"
        ),
    )
