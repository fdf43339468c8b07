"""Claim 10: budgets from one trunk against one cosine each, at three widths."""

import numpy as np

from .pictures import curves
from .study import Finding, Study, claim
from .verdicts import (
    TIE,
    Verdict,
    at_most,
    difference,
    every,
    interval,
    power_law,
    within,
)


@claim(
    "A sweep of budgets from one trunk gives the scaling curve of separate cosine runs "
    "at half the compute",
    "Hu et al. 2404.06395: O(m) against O(m²); Hägele et al. 2405.18392: 0.4–0.6",
)
def test(study: Study) -> Finding:
    scale = study.scale
    budgets = [scale.at(f) for f in (0.25, 0.5, 0.75, 1)]

    def make(name, width, total):
        def run(peak):
            if name == "WSD":
                schedule = study.wsd(peak, total, scale.chunks(0.2 * total))
            else:
                schedule = study.cosine(peak, total, 0.1)
            model = None if width == scale.model.width else width
            return {"schedule": schedule, "steps": total, "width": model}

        return run

    keys = [
        (name, width, total)
        for name in ("WSD", "cosine")
        for width in scale.widths
        for total in budgets
    ]
    rungs = {key: (-1, 0, 1) if key[0] == "WSD" else (0, 1, 2) for key in keys}
    methods = {key: make(*key) for key in keys}
    tuned = study.tune(methods, rungs, beside=lambda key: key[1:])
    gap = {
        (w, t): difference(tuned["WSD", w, t].loss, tuned["cosine", w, t].loss)
        for w in scale.widths
        for t in budgets
    }
    cooldowns = [scale.chunks(0.2 * total) for total in budgets]
    share = (budgets[-1] - cooldowns[-1] + sum(cooldowns)) / sum(budgets)

    def beyond(name, width):
        columns = np.array([tuned[name, width, total].loss for total in budgets]).T
        return np.array([power_law(budgets, column)[1] for column in columns])

    ends = {w: interval(beyond("WSD", w) - beyond("cosine", w)) for w in scale.widths}
    lines = {
        f"width {w}, {name}": {t: tuned[name, w, t].loss for t in budgets}
        for w in scale.widths
        for name in ("WSD", "cosine")
    }
    return Finding(
        {
            "half the compute": Verdict.HOLDS if share < 0.6 else Verdict.FAILS,
            "no worse at any budget": every(at_most(g, TIE) for g in gap.values()),
            "the curves end within 0.01": every(
                within(e, 2 * TIE) for e in ends.values()
            ),
        },
        [
            f"compute {share:.2f}",
            *(f"WSD − cosine at width {w}, {t} steps {g}" for (w, t), g in gap.items()),
            *(
                f"fitted curves at {2 * budgets[-1]}, width {w} {e}"
                for w, e in ends.items()
            ),
        ],
        {f"{n}, width {w}, {t}": [tuned[n, w, t]] for n, w, t in keys},
        lambda axes: curves(axes, lines, "steps"),
    )
