"""Claim 16: the growing b1 of claim 9 beside constants: longer, wider, with Muon."""

import numpy as np

from .c09_schedule_free import FREE, against_constants, draw
from .study import Finding, Study, claim
from .verdicts import TIE, at_most

MUON = {"name": "schedule_free_muon"}


@claim(
    "Ours: a b1 that grows as 1 − √(20 / (k + 20)) is as good as the best constant in "
    "runs of 4 times the length, with 5 times the parameters, and with Muon",
    "compare AMUSE, arXiv:2605.22432, where 1 − b1 falls as a power of the step",
)
def test(study: Study) -> Finding:
    scale = study.scale
    # Steps, width and optimizer, where they are not as usual, and the first rung.
    places = {
        f"{scale.at(4)} steps": (scale.at(4), None, {}, 1),
        f"width {scale.wide}": (scale.steps, scale.wide, {}, 0),
        "Muon": (scale.steps, None, MUON, 2),
    }

    def make(name, place):
        steps, width, optimizer, _ = places[place]
        numbers = FREE[name] | optimizer
        return lambda p: study.free(p, steps, numbers) | {"width": width}

    keys = [(name, place) for place in places for name in FREE]
    methods = {key: make(*key) for key in keys}
    rungs = {key: range(places[key[1]][-1], places[key[1]][-1] + 3) for key in keys}
    tuned = study.tune(methods, rungs, beside=lambda key: key[1])
    gap, worst = against_constants(tuned, places)
    return Finding(
        {place: at_most(value, TIE) for place, value in gap.items()},
        [
            *(f"{p}, {name} {np.mean(tuned[name, p].loss):.3f}" for name, p in keys),
            *(f"growing − best constant b1, {p} {value}" for p, value in gap.items()),
            *(f"worst − best constant b1, {p} {value}" for p, value in worst.items()),
        ],
        {f"{name}, {place}": [grid] for (name, place), grid in tuned.items()},
        lambda axes: draw(axes, tuned, {p: p for p in places}),
    )
