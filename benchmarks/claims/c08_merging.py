"""Claim 8: snapshots of a constant run merged in place of a cooldown."""

from .pictures import curves
from .study import Finding, Study, best, claim
from .verdicts import TIE, at_most, difference

SHAPES = ("linear", "one_minus_sqrt", "cosine")
PARTS = (0.1, 0.2, 0.4)


@claim(
    "Merging snapshots of a constant run with decay-shaped weights equals the decay",
    "Tian et al. 2507.17634: better downstream, the loss slightly higher",
)
def test(study: Study) -> Finding:
    scale, total = study.scale, study.scale.steps

    def merge(shape, part):
        size = scale.at(part) // scale.chunk
        average = {"name": "merge", "shape": shape, "size": size, "every": scale.chunk}
        return lambda p: {"schedule": study.constant(p), "average": average}

    def decay(shape, part):
        return lambda p: {"schedule": study.wsd(p, total, scale.at(part), shape)}

    names = [(shape, part) for shape in SHAPES for part in PARTS]
    methods = {("merge", *name): merge(*name) for name in names}
    methods |= {("decay", *name): decay(*name) for name in names}
    rungs = {k: (-3, -2, -1) if k[0] == "merge" else (-1, 0, 1) for k in methods}
    tuned = study.tune(methods, rungs, beside=lambda key: key[2])
    gap = {
        n: difference(tuned["merge", *n].loss, tuned["decay", *n].loss) for n in names
    }
    sides = {
        f"{kind} of {100 * part:g} %": [tuned[kind, shape, part] for shape in SHAPES]
        for kind in ("merge", "decay")
        for part in PARTS
    }
    chosen = {name: best(grids).loss for name, grids in sides.items()}
    equal = {
        f"a merge of {100 * part:g} % equals the decay": at_most(
            difference(
                chosen[f"merge of {100 * part:g} %"],
                chosen[f"decay of {100 * part:g} %"],
            ),
            TIE,
        )
        for part in PARTS
    }
    lines = {
        f"{shape}, {kind}": {part: tuned[kind, shape, part].loss for part in PARTS}
        for shape in SHAPES
        for kind in ("decay", "merge")
    }
    return Finding(
        equal,
        ["merge − decay", *(f"{s} over {100 * f:g} % {gap[s, f]}" for s, f in names)],
        sides,
        lambda axes: curves(axes, lines, "window, part of the run"),
    )
