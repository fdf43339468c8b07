"""Claim 16: the growing b1 of claim 9 beside constants, in a longer and a wider run."""

import numpy as np

from .c09_schedule_free import FREE, against_constants, draw
from .study import Finding, Study, claim
from .verdicts import TIE, at_most, every


@claim(
    "Ours: a b1 that grows as 1 − √(20 / (k + 20)) is as good as the best constant in "
    "runs of 4 times the length, and with 5 times the parameters",
    "compare AMUSE, arXiv:2605.22432, where 1 − b1 falls as a power of the step",
)
def test(study: Study) -> Finding:
    scale = study.scale
    places = {
        f"{scale.at(4)} steps": (scale.at(4), None),
        f"width {scale.wide}": (scale.steps, scale.wide),
    }

    def make(name, place):
        steps, width = places[place]
        return lambda p: study.free(p, steps, FREE[name]) | {"width": width}

    keys = [(name, place) for name in FREE for place in places]
    methods = {key: make(*key) for key in keys}
    rungs = {key: (1, 2, 3) if places[key[1]][1] is None else (0, 1, 2) for key in keys}
    tuned = study.tune(methods, rungs, beside=lambda key: key[1])
    gap, worst = against_constants(tuned, places)
    return Finding(
        {
            "as good as the best constant": every(
                at_most(value, TIE) for value in gap.values()
            )
        },
        [
            *(
                f"{place}, {name} {np.mean(tuned[name, place].loss):.3f}"
                for place in places
                for name in FREE
            ),
            *(f"growing − best constant b1, {p} {value}" for p, value in gap.items()),
            *(f"worst − best constant b1, {p} {value}" for p, value in worst.items()),
        ],
        {f"{name}, {place}": [grid] for (name, place), grid in tuned.items()},
        lambda axes: draw(axes, tuned, dict(zip(places, places, strict=True))),
    )
