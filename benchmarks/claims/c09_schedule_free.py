"""Claim 9: schedule-free AdamW, its b1 by length, its C, against tuned AdamW."""

from collections.abc import Callable

import numpy as np

from .pictures import curves
from .study import SCHEDULE_FREE, Finding, Study, best, claim
from .verdicts import TIE, at_least, at_most, difference, every

B1S = {f"b1 {b1:g}": {"b1": b1} for b1 in (0.8, 0.9, 0.95, 0.98)}
GROWING = {"growing_b1": 20}  # offset_steps of `growing_b1_schedule`
C = {"decoupling": 50}  # the paper's at b1 0.9; at b1 0.98 it changes nothing
ADAMW = ("WSD 40 %", "linear to zero")


@claim(
    "Schedule-free matches schedules that know the end, is sensitive to b1, and C "
    "cures that; a cooldown adds nothing to it. Ours: a growing b1 cures it",
    "Defazio et al. 2405.15682; Song et al. 2507.09846: C is worth 0.06–0.14",
)
def test(study: Study) -> Finding:
    scale, middle = study.scale, study.scale.steps
    totals = [scale.at(0.5), middle, scale.at(2)]

    def free(total, numbers, cooldown=0):
        return lambda p: {
            "schedule": study.wsd(p, middle, cooldown),
            "steps": total,
            "optimizer": SCHEDULE_FREE | numbers,
        }

    def wsd(total):
        cooldown = scale.chunks(0.4 * total)
        return lambda p: {"schedule": study.wsd(p, total, cooldown), "steps": total}

    def linear(total):
        return lambda p: {"schedule": study.linear(p, total), "steps": total}

    methods: dict[tuple[str, int], Callable] = {
        (name, n): free(n, numbers)
        for name, numbers in (B1S | {"growing b1": GROWING}).items()
        for n in totals
    }
    methods |= {(ADAMW[0], n): wsd(n) for n in totals}
    methods |= {(ADAMW[1], n): linear(n) for n in totals}
    first: dict[str, int] = dict(zip(ADAMW, (0, 1), strict=True))
    rungs = {k: range(first.get(k[0], 2), first.get(k[0], 2) + 3) for k in methods}
    tuned = study.tune(methods, rungs, beside=lambda key: key[1])

    # At the peaks found without C, and without a cooldown.
    asked = {k: free(middle, v | C)(tuned[k, middle].best) for k, v in B1S.items()}
    del asked["b1 0.98"]
    cool = free(middle, GROWING, scale.at(0.1))
    asked["cooled"] = cool(tuned["growing b1", middle].best)
    loss = {key: grid.loss for key, grid in tuned.items()}
    after = {name: values[:, 1] for name, values in study.losses(asked).items()}
    fixed = {n: best(tuned[name, n] for name in B1S).loss for n in totals}
    worst = {n: max((loss[name, n] for name in B1S), key=np.mean) for n in totals}
    sensitive = {n: difference(worst[n], fixed[n]) for n in totals}
    against = {n: difference(loss["growing b1", n], fixed[n]) for n in totals}
    gap = {
        (name, n): difference(loss["growing b1", n], loss[name, n])
        for name in ADAMW
        for n in totals
    }
    refined = [after.get(name, loss[name, middle]) for name in B1S]
    left = difference(max(refined, key=np.mean), min(refined, key=np.mean))
    gain = difference(after["cooled"], loss["growing b1", middle])
    lines = {
        f"{n} steps": {
            1 - numbers["b1"]: loss[name, n] - loss["growing b1", n]
            for name, numbers in B1S.items()
        }
        for n in totals
    }
    rows = [*B1S, "growing b1", *ADAMW]
    at = ", ".join(str(n) for n in totals)
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
            f"losses at {at} steps: "
            + ", ".join(
                f"{name} {' / '.join(f'{np.mean(loss[name, n]):.3f}' for n in totals)}"
                for name in rows
            ),
            *(f"growing b1 − {name} at {n} {d}" for (name, n), d in gap.items()),
            *(f"growing − best constant b1 at {n} {d}" for n, d in against.items()),
            *(f"worst − best constant b1 at {n} {d}" for n, d in sensitive.items()),
            f"worst − best constant b1 with C 50 at {middle} {left}",
            f"a cooldown of 10 % after a growing b1 {gain}",
        ],
        {f"{name} at {n}": [tuned[name, n]] for name in rows for n in totals},
        lambda axes: curves(
            axes, lines, "1 − b1, constant", "loss − that of a growing b1"
        ),
    )
