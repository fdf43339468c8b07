"""Claim 6: the part that a cooldown needs, at half, once and twice the steps."""

from .pictures import curves
from .study import Finding, Grid, Study, claim
from .verdicts import TIE, at_most, difference

FRACTIONS = (0.05, 0.1, 0.2, 0.4)


@claim(
    "A longer run needs a smaller part: 5 % at 4 times the length matches cosine",
    "Hägele et al. 2405.18392, fig. 6 (200k steps)",
)
def test(study: Study) -> Finding:
    scale = study.scale
    totals = [scale.at(0.5), scale.at(1), scale.at(2)]

    def make(total, part):
        def schedule(p):
            if part == "cosine":
                return study.cosine(p, total, 0.1)
            return study.wsd(p, total, scale.chunks(part * total))

        return lambda p: {"schedule": schedule(p), "steps": total}

    keys = [(n, part) for n in totals for part in (*FRACTIONS, "cosine")]
    rungs = {key: (0, 1, 2) if key[1] == "cosine" else (-1, 0, 1) for key in keys}
    methods = {key: make(*key) for key in keys}
    tuned = study.tune(methods, rungs, beside=lambda key: key[0])
    gap = {
        (n, f): difference(tuned[n, f].loss, tuned[n, "cosine"].loss)
        for n in totals
        for f in FRACTIONS
    }
    cost = {n: tuned[n, 0.05].loss - tuned[n, 0.4].loss for n in totals}
    first, *_, last = totals
    trend = difference(cost[last], cost[first])
    lines = {
        f"{n} steps": {f: tuned[n, f].loss - tuned[n, "cosine"].loss for f in FRACTIONS}
        for n in totals
    }
    sides: dict[str, list[Grid]] = {
        f"{n} steps, {'cosine' if f == 'cosine' else f'{100 * f:g} %'}": [grid]
        for (n, f), grid in tuned.items()
    }
    return Finding(
        {
            "a longer run needs a smaller part": at_most(trend),
            "5 % matches cosine to 10 % in the end": at_most(gap[last, 0.05], TIE),
        },
        [
            *(f"5 % − cosine to 10 % at {n} {gap[n, 0.05]}" for n in totals),
            *(f"40 % − cosine to 10 % at {n} {gap[n, 0.4]}" for n in totals),
            f"what 5 % costs against 40 %, from {first} to {last}: {trend}",
        ],
        sides,
        lambda axes: curves(
            axes, lines, "cooldown, part of the run", "loss − that of cosine to 10 %"
        ),
    )
