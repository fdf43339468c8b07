"""Claim 3: peaks at the bottoms of parabolas in their logarithm."""

import numpy as np

from .pictures import curves, of_peaks
from .study import Finding, Study, claim
from .verdicts import at_most, interval, within


@claim(
    "The best peak: constant < WSD 20 % < cosine to zero; constant is half of cosine's",
    "Hägele et al. 2405.18392",
)
def test(study: Study) -> Finding:
    tuned = study.headline()
    log = {name: grid.optima() for name, grid in tuned.items()}
    zero = log["cosine to zero"]
    ratio = {name: interval(log[name] - zero) for name in log}
    half = interval(log["constant"] - zero - np.log(0.5))
    figures = [
        f"{name} {np.exp(r.mean):.2f} [{np.exp(r.low):.2f}, {np.exp(r.high):.2f}]"
        for name, r in ratio.items()
        if name != "cosine to zero"
    ]
    return Finding(
        {
            "constant < WSD 20 %": at_most(interval(log["constant"] - log["WSD 20 %"])),
            "WSD 20 % < cosine to zero": at_most(ratio["WSD 20 %"]),
            "constant is half of cosine to zero": within(half, np.log(1.25)),
        },
        [f"of cosine to zero's {np.exp(np.mean(zero)):.1e}", *figures],
        {name: [grid] for name, grid in tuned.items()},
        lambda axes: curves(axes, of_peaks(tuned), "peak learning rate"),
    )
