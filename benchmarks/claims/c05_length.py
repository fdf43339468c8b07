"""Claim 5: lengths of the cooldown, each at its own best peak."""

from .pictures import curves
from .study import Finding, Study, claim
from .verdicts import TIE, at_least, at_most, difference, every

FRACTIONS = (0.025, 0.05, 0.1, 0.2, 0.4, 0.6)


@claim(
    "The gain of a longer cooldown levels off at 20 %; 10 % is enough, 2.5 % is not",
    "Hägele et al. 2405.18392, fig. 5; Hu et al. 2404.06395: 2.5 % is +0.06",
)
def test(study: Study) -> Finding:
    scale, total = study.scale, study.scale.steps

    def make(fraction):
        return lambda p: {"schedule": study.wsd(p, total, scale.at(fraction))}

    tuned = study.tune({fraction: make(fraction) for fraction in FRACTIONS})
    gap = {f: difference(tuned[f].loss, tuned[0.2].loss) for f in FRACTIONS}
    peaks = sorted(set.intersection(*(set(grid.losses) for grid in tuned.values())))
    lines = {
        f"peak {peak:g}": {f: tuned[f].losses[peak][:, 1] for f in FRACTIONS}
        for peak in peaks
    }
    lines["each at its best peak"] = {f: tuned[f].loss for f in FRACTIONS}
    return Finding(
        {
            "levels off at 20 %": every(at_least(gap[f], -TIE) for f in (0.4, 0.6)),
            "10 % is enough": at_most(gap[0.1], TIE),
            "2.5 % is not": at_least(gap[0.025], TIE),
        },
        [f"{100 * f:g} % − 20 % {gap[f]}" for f in FRACTIONS if f != 0.2],
        {f"{100 * f:g} %": [grid] for f, grid in tuned.items()},
        lambda axes: curves(axes, lines, "cooldown, part of the run"),
    )
