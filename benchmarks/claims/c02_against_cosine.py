"""Claim 2, at each schedule's own best peak."""

from .study import Finding, Study, claim
from .verdicts import TIE, at_most, difference


@claim("WSD with a cooldown of 20 % matches cosine", "Hägele et al. 2405.18392")
def test(study: Study) -> Finding:
    tuned = study.headline()
    others = ("cosine to 10 %", "cosine to zero", "linear to zero")
    gap = {
        (ours, other): difference(tuned[ours].loss, tuned[other].loss)
        for ours in ("WSD 20 %", "WSD 40 %")
        for other in others
    }
    straight = difference(tuned[others[2]].loss, tuned[others[1]].loss)
    return Finding(
        {f"matches {o}": at_most(gap["WSD 20 %", o], TIE) for o in others[:2]},
        [
            *(f"{ours} − {other} {value}" for (ours, other), value in gap.items()),
            f"linear to zero − cosine to zero {straight}",
        ],
        {name: [tuned[name]] for name in ("WSD 20 %", "WSD 40 %", *others)},
    )
