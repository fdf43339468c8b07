"""Claim 7: averages of a constant run and of a cooldown; width and peak are tuned."""

import math

import numpy as np

from optax_wsd import gamma_from_half_life

from .pictures import curves
from .study import Finding, Study, best, claim
from .verdicts import at_least, difference, interval, within

FAMILIES = ("SWA", "EMA", "power-EMA", "LAWA")
WIDTHS = (5, 10, 20, 40)  # percent of the run


@claim(
    "Averaging a constant run recovers most of the cooldown's gain, and adds nothing "
    "after a cooldown",
    "Hägele et al. 2405.18392: SWA closes 83 % (their logs); EMA worse than SWA",
)
def test(study: Study) -> Finding:
    kinds = [(family, width) for family in FAMILIES for width in WIDTHS]

    def constant(average):
        return lambda p: {"schedule": study.constant(p), "average": average}

    def cooldown(width):
        steps = study.scale.at(width / 100)
        return lambda p: {"schedule": study.wsd(p, study.scale.steps, steps)}

    methods = {kind: constant(_average(study, *kind)) for kind in kinds}
    methods |= {("cooldown", width): cooldown(width) for width in WIDTHS}
    methods |= {("no average", 0): constant(None)}
    rungs = {k: (-1, 0, 1) if k[0] == "cooldown" else (-3, -2, -1) for k in methods}
    tuned = study.tune(methods, rungs)
    families = {f: [tuned[f, width] for width in WIDTHS] for f in FAMILIES}
    cooled = [tuned["cooldown", width] for width in WIDTHS]
    last, target = tuned["no average", 0].loss, best(cooled).loss
    share = {
        f: interval((last - best(grids).loss) / (last - target))
        for f, grids in families.items()
    }
    everything = [grid for grids in families.values() for grid in grids]
    after = _after_a_cooldown(study, tuned["cooldown", 20].best)
    lines = {f: {width: tuned[f, width].loss for width in WIDTHS} for f in FAMILIES}
    levels = {"no average": last, "the best cooldown": target}
    return Finding(
        {
            "an average recovers three quarters of the gain": at_least(
                interval((last - best(everything).loss) / (last - target)), 0.75
            ),
            "adds nothing after a cooldown": within(after),
        },
        [
            "of the gain of the best cooldown",
            *(
                f"{f} {100 * s.mean:.0f} ± {100 * s.error:.0f} %"
                for f, s in share.items()
            ),
            f"best average − best cooldown {difference(best(everything).loss, target)}",
            f"best average after 20 % {after}",
        ],
        {"no average": [tuned["no average", 0]], **families, "cooldowns": cooled},
        lambda axes: curves(axes, lines, "width, % of the run", levels=levels),
    )


def _after_a_cooldown(study: Study, peak: float):
    """The best short average of WSD 20 % against its last weights."""
    schedule = study.wsd(peak, study.scale.steps, study.scale.at(0.2))
    widths = [(family, 5) for family in FAMILIES[:3]]
    losses = study.losses(
        {k: {"schedule": schedule, "average": _average(study, *k)} for k in widths}
        | {"last": {"schedule": schedule}}
    )
    chosen = min(widths, key=lambda k: np.mean(losses[k][:, 0]))
    return difference(losses[chosen][:, 1], losses["last"][:, 1])


def _average(study: Study, family: str, percent: float) -> dict:
    """The width of an EMA is its horizon 1 / (1 - decay), that of a power EMA its
    half-life over ln 2: the same thing at the last step."""
    scale, total = study.scale, study.scale.steps
    width, every = scale.at(percent / 100), scale.chunk // scale.snapshots
    if family == "SWA":
        return {"name": "swa", "start_step": total - width}
    if family == "EMA":
        return {"name": "ema", "decay": 1 - 1 / width}
    if family == "LAWA":  # six snapshots, as in the paper
        spacing = max(1, round(width / 6 / every)) * every
        return {"name": "lawa", "size": 6, "every": spacing}
    gamma = gamma_from_half_life(math.log(2) * percent / 100)
    return {"name": "power_ema", "gamma": round(gamma, 3)}
