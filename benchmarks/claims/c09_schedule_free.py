"""Claim 9: schedule-free AdamW, its b1 by length, its C, against tuned AdamW."""

import numpy as np

from .pictures import curves
from .study import Finding, Study, best, claim
from .verdicts import TIE, at_least, at_most, difference, every

B1S = {f"b1 {b1:g}": {"b1": b1} for b1 in (0.8, 0.9, 0.95, 0.98)}
GROWING = {"growing_b1": 20}  # offset_steps of `growing_b1_schedule`
FREE = B1S | {"growing b1": GROWING}
ADAMW = ("WSD 40 %", "linear to zero")
# The paper's C at b1 0.9; at b1 0.98 it changes nothing.
REFINED = {name: numbers | {"decoupling": 50} for name, numbers in B1S.items()}
del REFINED["b1 0.98"]
# Other numbers of a growing b1, at the peak found with these.
VARIANTS = {
    "offset 10": {"growing_b1": 10},
    "offset 40": {"growing_b1": 40},
    "b2 0.999": GROWING | {"b2": 0.999},
    "r 2": GROWING | {"r": 2.0},
    "start_step 120": GROWING | {"start_step": 120},
}


@claim(
    "Schedule-free matches schedules that know the end, is sensitive to b1, and C "
    "cures that; a cooldown adds nothing to it. Ours: a growing b1 cures it",
    "Defazio et al. 2405.15682; Song et al. 2507.09846: C is worth 0.06–0.14",
)
def test(study: Study) -> Finding:
    scale, middle = study.scale, study.scale.steps
    totals = [scale.at(0.5), middle, scale.at(2)]

    def make(name, steps):
        if name in FREE:
            return lambda p: study.free(p, steps, FREE[name])
        if name == "linear to zero":
            return lambda p: {"schedule": study.linear(p, steps), "steps": steps}
        cooldown = scale.chunks(0.4 * steps)
        return lambda p: {"schedule": study.wsd(p, steps, cooldown), "steps": steps}

    keys = [(name, n) for name in (*FREE, *ADAMW) for n in totals]
    first = dict.fromkeys(FREE, 2) | {ADAMW[0]: 0, ADAMW[1]: 1}
    tuned = study.tune(
        {key: make(*key) for key in keys},
        {key: range(first[key[0]], first[key[0]] + 3) for key in keys},
        beside=lambda key: key[1],
    )
    loss = {key: grid.loss for key, grid in tuned.items()}

    # At the peaks found without C, without a cooldown, and with the usual numbers.
    peak = tuned["growing b1", middle].best
    asked = {k: study.free(peak, middle, v) for k, v in VARIANTS.items()}
    asked["cooled"] = study.free(peak, middle, GROWING, scale.at(0.1))
    for name, numbers in REFINED.items():
        asked[name] = study.free(tuned[name, middle].best, middle, numbers)
    after = {name: values[:, 1] for name, values in study.losses(asked).items()}

    against, sensitive = against_constants(tuned, totals)
    gap = {
        (name, n): difference(loss["growing b1", n], loss[name, n])
        for name in ADAMW
        for n in totals
    }
    refined = [after.get(name, loss[name, middle]) for name in B1S]
    left = difference(max(refined, key=np.mean), min(refined, key=np.mean))
    varied = {k: difference(after[k], loss["growing b1", middle]) for k in VARIANTS}
    gain = difference(after["cooled"], loss["growing b1", middle])

    def means(name):
        return f"{name} {' / '.join(f'{np.mean(loss[name, n]):.3f}' for n in totals)}"

    rows = [*FREE, *ADAMW]
    return Finding(
        {
            "matches WSD 40 % and linear to zero": every(
                at_most(d, TIE) for d in gap.values()
            ),
            "a constant b1 is sensitive": every(
                at_least(d, 0.02) for d in sensitive.values()
            ),
            "C cures it": at_most(left, 0.02),
            "a growing b1 does: as good as the best constant": every(
                at_most(d, TIE) for d in against.values()
            ),
            "a cooldown adds nothing": at_least(gain, -TIE),
        },
        [
            f"losses at {', '.join(map(str, totals))} steps",
            *map(means, rows),
            *(f"growing b1 − {name} at {n} {d}" for (name, n), d in gap.items()),
            *(f"growing − best constant b1 at {n} {d}" for n, d in against.items()),
            *(f"worst − best constant b1 at {n} {d}" for n, d in sensitive.items()),
            f"worst − best constant b1 with C 50 at {middle} {left}",
            *(f"growing b1 with {name} {d}" for name, d in varied.items()),
            f"a cooldown of 10 % after a growing b1 {gain}",
        ],
        {f"{name} at {n}": [tuned[name, n]] for name in rows for n in totals},
        lambda axes: draw(axes, tuned, {f"{n} steps": n for n in totals}),
    )


def against_constants(tuned, places):
    """By place the growing b1, and the worst constant, less the best constant."""
    fixed = {p: best(tuned[name, p] for name in B1S).loss for p in places}
    worst = {p: max((tuned[b1, p].loss for b1 in B1S), key=np.mean) for p in places}
    growing = {p: difference(tuned["growing b1", p].loss, fixed[p]) for p in places}
    return growing, {p: difference(worst[p], fixed[p]) for p in places}


def draw(axes, tuned, places):
    """The constants at each place, by its label, less the growing b1."""
    lines = {
        label: {
            1 - numbers["b1"]: tuned[name, p].loss - tuned["growing b1", p].loss
            for name, numbers in B1S.items()
        }
        for label, p in places.items()
    }
    curves(axes, lines, "1 − b1, constant", "loss − that of a growing b1")
