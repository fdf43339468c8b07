"""Claim 9: schedule-free AdamW, its b1 by length and width, against tuned AdamW."""

import numpy as np

from .pictures import curves
from .study import SCHEDULE_FREE, Finding, Study, best, claim
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
    scale, middle = study.scale, (study.scale.steps, None)
    # Steps and width: the run doubled and doubled again, and a model of five times.
    lengths = [(scale.at(part), None) for part in (0.5, 1, 2, 4)]
    places = [*lengths, (scale.steps, scale.wide)]
    words = {place: f"{place[0]}{', wide' * bool(place[1])}" for place in places}

    def make(name, place):
        steps, width = place

        def run(p):
            if name in FREE:
                return free(p, steps, FREE[name]) | {"width": width}
            cooldown = scale.chunks(0.4 * steps)
            schedules = (study.wsd(p, steps, cooldown), study.linear(p, steps))
            schedule = schedules[ADAMW.index(name)]
            return {"schedule": schedule, "steps": steps, "width": width}

        return run

    def free(p, steps, numbers, cooldown=0):
        schedule = study.wsd(p, scale.steps, cooldown)
        optimizer = SCHEDULE_FREE | numbers
        return {"schedule": schedule, "steps": steps, "optimizer": optimizer}

    keys = [(name, place) for name in (*FREE, *ADAMW) for place in places]
    first = dict.fromkeys(FREE, 2) | {ADAMW[0]: 0, ADAMW[1]: 1}
    tuned = study.tune(
        {key: make(*key) for key in keys},
        {key: range(first[key[0]], first[key[0]] + 3) for key in keys},
        beside=lambda key: key[1],
    )
    loss = {key: grid.loss for key, grid in tuned.items()}

    # At the peaks found without C, without a cooldown, and with the usual numbers.
    peak = tuned["growing b1", middle].best
    asked = {k: free(tuned[k, middle].best, *middle[:1], v) for k, v in REFINED.items()}
    asked |= {k: free(peak, *middle[:1], v) for k, v in VARIANTS.items()}
    asked["cooled"] = free(peak, middle[0], GROWING, scale.at(0.1))
    after = {name: values[:, 1] for name, values in study.losses(asked).items()}

    fixed = {p: best(tuned[name, p] for name in B1S).loss for p in places}
    worst = {p: max((loss[name, p] for name in B1S), key=np.mean) for p in places}
    sensitive = {p: difference(worst[p], fixed[p]) for p in places}
    against = {p: difference(loss["growing b1", p], fixed[p]) for p in places}
    gap = {
        (name, p): difference(loss["growing b1", p], loss[name, p])
        for name in ADAMW
        for p in places
    }
    refined = [after.get(name, loss[name, middle]) for name in B1S]
    left = difference(max(refined, key=np.mean), min(refined, key=np.mean))
    varied = {k: difference(after[k], loss["growing b1", middle]) for k in VARIANTS}
    gain = difference(after["cooled"], loss["growing b1", middle])
    lines = {
        words[p]: {
            1 - numbers["b1"]: loss[name, p] - loss["growing b1", p]
            for name, numbers in B1S.items()
        }
        for p in places
    }

    def means(name):
        return f"{name} {' / '.join(f'{np.mean(loss[name, p]):.3f}' for p in places)}"

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
            f"losses at {'; '.join(words.values())}: {', '.join(map(means, rows))}",
            *(f"growing b1 − {name} at {words[p]} {d}" for (name, p), d in gap.items()),
            *(
                f"growing − best constant b1 at {words[p]} {d}"
                for p, d in against.items()
            ),
            *(
                f"worst − best constant b1 at {words[p]} {d}"
                for p, d in sensitive.items()
            ),
            f"worst − best constant b1 with C 50 at {words[middle]} {left}",
            *(f"growing b1 with {name} {d}" for name, d in varied.items()),
            f"a cooldown of 10 % after a growing b1 {gain}",
        ],
        {f"{name} at {words[p]}": [tuned[name, p]] for name in rows for p in places},
        lambda axes: curves(
            axes, lines, "1 − b1, constant", "loss − that of a growing b1"
        ),
    )
