"""Claim 12: the weights between the two ends of a cooldown."""

from .pictures import curves
from .study import Finding, Study, claim
from .verdicts import at_least, at_most, every, interval

SHARES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2)


@claim(
    "Loss falls monotonically on the line from the weights before a cooldown to those "
    "after it",
    "Hägele et al. 2405.18392, fig. 10",
)
def test(study: Study) -> Finding:
    scale, total = study.scale, study.scale.steps
    wsd = study.headline()["WSD 20 %"]
    schedule = study.wsd(wsd.best, total, scale.at(0.2))
    start = {"name": "line", "start_step": total - scale.at(0.2)}
    losses = study.losses(
        {s: {"schedule": schedule, "average": start | {"share": s}} for s in SHARES}
    )
    path = {share: losses[share][:, 1] for share in SHARES}
    steps = {
        (a, b): interval(path[b] - path[a])
        for a, b in zip(SHARES[:-1], SHARES[1:], strict=True)
    }
    beyond = steps.pop(SHARES[-2:])
    return Finding(
        {
            "falls all the way": every(at_most(step) for step in steps.values()),
            "rises beyond the end": at_least(beyond),
        },
        [
            *(f"from {a:g} to {b:g} {step}" for (a, b), step in steps.items()),
            f"beyond the end, to {SHARES[-1]:g} {beyond}",
        ],
        {"WSD 20 %": [wsd]},
        lambda axes: curves(
            axes,
            {"loss on the line": path},
            "from before (0) to after (1) the cooldown",
            log=False,
        ),
    )
