"""Claim 13: when to mix in new data, and what two texts in turn leave of the first."""

import numpy as np

from .study import Finding, Study, claim
from .verdicts import at_least, at_most, difference, every

OLD, NEW = "jax", "other"


@claim(
    "New data is best mixed into the cooldown; an infinite schedule forgets less than "
    "re-warmed cosine",
    "Hu et al. 2404.06395, table 1; Ibrahim et al. 2403.08763",
)
def test(study: Study) -> Finding:
    scale, total = study.scale, study.scale.steps
    fifth, twice = scale.at(0.2), 2 * study.scale.steps
    start = total - fifth

    def early(p):
        return study.wsd(p, start, fifth) | {"end_value": p / 10}

    def wsd(p):
        return study.wsd(p, total, fifth)

    plans = {
        "in the cooldown": (wsd, (NEW, 0.5, start, total)),
        "before": (wsd, (NEW, 0.5, start - fifth, start)),
        "after": (early, (NEW, 0.5, start, total)),
        # As many rows of it, spread over the last 80 %.
        "evenly": (wsd, (NEW, 1 / 8, fifth, 5 * fifth)),
    }

    def infinite(p):
        falling = study.infinite(p, p / 2)
        return study.cooled(falling, twice - fifth, fifth)

    second = (NEW, 1.0, total, twice)
    turns = {
        "infinite": (infinite, second),
        "re-warmed": (lambda p: study.rewarmed(p, total), second),
    }

    def make(name, text):
        schedule, mixture = (plans | turns)[name]
        steps = twice if name in turns else total
        shared = {"mixture": mixture, "steps": steps, "text": text}
        return lambda p: {"schedule": schedule(p)} | shared

    names, texts = [*plans, *turns], (OLD, NEW)
    # One run of each is chosen, by the sum of its losses on both texts.
    tuned = study.tune(
        {n: lambda p, n=n: [make(n, text)(p) for text in texts] for n in names},
        beside=lambda name: name in turns,
    )
    chosen = {(n, t): make(n, t)(tuned[n].best) for n in names for t in texts}
    loss = {key: losses[:, 1] for key, losses in study.losses(chosen).items()}
    base, infinite_, warm = "in the cooldown", "infinite", "re-warmed"
    gap = {
        (n, text): difference(loss[n, text], loss[base, text])
        for n in plans
        if n != base
        for text in (NEW, OLD)
    }
    turn = {t: difference(loss[infinite_, t], loss[warm, t]) for t in (OLD, NEW)}
    words = {OLD: "old", NEW: "new"}

    def draw(axes):
        for name in names:
            x, y = (np.mean(loss[name, text]) for text in (OLD, NEW))
            axes.plot(x, y, "o", markersize=8, label=name)
        axes.set(xlabel="loss on the old text", ylabel="loss on the new text")

    return Finding(
        {
            "the new text is learned best in the cooldown": every(
                at_least(g) for (_, text), g in gap.items() if text == NEW
            ),
            "infinite forgets less": at_most(turn[OLD]),
        },
        [
            "against mixing into the cooldown",
            *(f"{n}, {words[text]} text {g}" for (n, text), g in gap.items()),
            *(f"infinite − re-warmed, {words[t]} text {g}" for t, g in turn.items()),
        ],
        {name: [grid] for name, grid in tuned.items()},
        draw,
    )
