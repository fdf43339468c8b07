"""Claim 9: schedule-free AdamW, its b1 and its C, against tuned AdamW."""

from .pictures import curves
from .study import SCHEDULE_FREE, Finding, Study, best, claim
from .verdicts import TIE, at_least, at_most, difference

B1S, CS = (0.9, 0.95, 0.98), (10, 20, 50)


@claim(
    "Schedule-free matches tuned cosine, is sensitive to b1, and C cures that; "
    "a cooldown adds nothing to it",
    "Defazio et al. 2405.15682; Song et al. 2507.09846: C is worth 0.06–0.14",
)
def test(study: Study) -> Finding:
    scale, total = study.scale, study.scale.steps

    def free(b1, c=None, cooldown=0):
        # C = 1 / (1 - b1) is plain schedule-free.
        numbers = {"b1": b1, "decoupling": c or round(1 / (1 - b1))}
        return lambda p: {
            "schedule": study.wsd(p, total, cooldown),
            "optimizer": SCHEDULE_FREE | numbers,
        }

    rungs = (1, 2, 3)
    plain = study.tune({b1: free(b1) for b1 in B1S}, rungs)
    refined = study.tune({(b1, c): free(b1, c) for b1 in B1S for c in CS}, rungs)
    cooled = study.tune({"cooled": free(0.9, cooldown=scale.at(0.1))}, rungs)["cooled"]
    adamw = study.headline()
    everything = [*plain.values(), *refined.values()]
    cured = {b1: best(refined[b1, c] for c in CS) for b1 in B1S}
    gap = difference(best(everything).loss, adamw["cosine to zero"].loss)
    spread = difference(plain[B1S[-1]].loss, plain[B1S[0]].loss)
    left = difference(cured[B1S[-1]].loss, cured[B1S[0]].loss)
    gain = difference(cooled.loss, plain[0.9].loss)
    lines = {f"b1 {b}": {c: refined[b, c].loss for c in CS} for b in B1S}
    levels = {"cosine to zero": adamw["cosine to zero"].loss}
    return Finding(
        {
            "matches cosine to zero": at_most(gap, TIE),
            "sensitive to b1": at_least(spread, 2 * TIE),
            "C cures that": at_most(left, TIE),
            "a cooldown adds nothing": at_least(gain, -TIE),
        },
        [
            f"best schedule-free − cosine to zero {gap}",
            f"b1 0.98 − b1 0.9 {spread}, with the best C {left}",
            f"a cooldown of 10 % {gain}",
        ],
        {"schedule-free": everything, "cosine to zero": [adamw["cosine to zero"]]},
        lambda axes: curves(axes, lines, "C", levels=levels),
    )
