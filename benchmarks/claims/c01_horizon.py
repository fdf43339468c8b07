"""Claim 1: cosines of three lengths, each at its best peak for every end."""

from .pictures import curves
from .study import Finding, Study, claim
from .verdicts import at_least, difference, every


@claim(
    "Cosine is best only when its length is the length of training",
    "Hoffmann et al. 2203.15556; Hu et al. 2404.06395, fig. 4",
)
def test(study: Study) -> Finding:
    scale = study.scale
    ends = [scale.at(0.5), scale.at(1), scale.at(2)]

    def cosine(length, end):
        return lambda p: {"schedule": study.cosine(p, length, 0.1), "steps": end}

    pairs = [(n, end) for n in ends for end in ends if end <= 2 * n]
    methods = {pair: cosine(*pair) for pair in pairs}
    tuned = study.tune(methods, (0, 1, 2), beside=lambda pair: pair[1])
    worse = {
        (n, end): difference(tuned[n, end].loss, tuned[end, end].loss)
        for n, end in pairs
        if n != end
    }
    lines = {
        f"cosine for {n} steps": {end: tuned[m, end].loss for m, end in pairs if m == n}
        for n in ends
    }
    return Finding(
        {
            "a longer cosine is worse": every(
                at_least(gap) for (n, end), gap in worse.items() if n > end
            ),
            "a shorter one is worse": every(
                at_least(gap) for (n, end), gap in worse.items() if n < end
            ),
        },
        [
            "against the cosine to 10 % of that length",
            *(f"at {end}, one for {n}: {gap}" for (n, end), gap in worse.items()),
        ],
        {f"{n} at {end}": [grid] for (n, end), grid in tuned.items()},
        lambda axes: curves(axes, lines, "steps of training"),
    )
