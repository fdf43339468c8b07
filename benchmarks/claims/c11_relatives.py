"""Claim 11: multi-step, WSD-S and 1/sqrt(t) with a cooldown."""

import numpy as np

from .pictures import curves, of_peaks
from .study import Finding, Study, claim
from .verdicts import TIE, at_most, difference, every, interval, within


@claim(
    "Multi-step equals cosine; WSD-S equals WSD at equal compute; the peak of "
    "1/√t with a cooldown (WSqD) serves every horizon",
    "DeepSeek 2401.02954; Wen et al. 2410.05192; WSqD 2607.10959",
)
def test(study: Study) -> Finding:
    scale, total = study.scale, study.scale.steps
    ends, tenth = [scale.at(0.5), scale.at(1), scale.at(2)], scale.at(0.1)
    # WSD-S has paid for the cooldowns before; WSD gets as many steps without them.
    alone = {end: end - i * tenth for i, end in enumerate(ends) if i}

    def make(name, end):
        fifth = scale.chunks(0.2 * end)

        def schedule(p):
            match name:
                case "multi-step":
                    return study.multistep(p, end)
                case "cosine to 10 %":
                    return study.cosine(p, end, 0.1)
                case "WSqD":
                    falling = study.inverse_sqrt(p, ends[0])
                    return study.cooled(falling, end - fifth, fifth)
                case "WSD-S":
                    return study.wsds(p, ends, tenth)
                case "WSD, equal compute":
                    return study.wsd(p, alone[end], tenth)
                case _:
                    return study.wsd(p, end, fifth)

        steps = alone[end] if "equal" in name else end
        return lambda p: {"schedule": schedule(p), "steps": steps}

    keys = [(name, total) for name in ("multi-step", "cosine to 10 %")]
    keys += [(name, end) for name in ("WSD-S", "WSD, equal compute") for end in alone]
    keys += [(name, end) for name in ("WSqD", "WSD") for end in ends]
    methods = {key: make(*key) for key in keys}
    rungs = {k: (0, 1, 2) if "cosine" in k[0] else (-1, 0, 1) for k in keys}
    tuned = study.tune(methods, rungs, beside=lambda key: key[1])

    def gap(ours, other, end):
        return difference(tuned[ours, end].loss, tuned[other, end].loss)

    multistep = gap("multi-step", "cosine to 10 %", total)
    wsd_s = {end: gap("WSD-S", "WSD, equal compute", end) for end in alone}
    drift = {
        name: interval(tuned[name, ends[-1]].optima() - tuned[name, ends[0]].optima())
        for name in ("WSqD", "WSD")
    }
    named = {f"{end} steps, {name}": tuned[name, end] for name, end in keys}
    drawn = {k: grid for k, grid in named.items() if k.endswith(("WSqD", "WSD"))}
    return Finding(
        {
            "multi-step ties with cosine to 10 %": within(multistep),
            "WSD-S is no worse than WSD": every(
                at_most(g, TIE) for g in wsd_s.values()
            ),
            "WSqD's peak stays, to a factor of √2": within(
                drift["WSqD"], np.log(2) / 2
            ),
        },
        [
            f"multi-step − cosine to 10 % {multistep}",
            *(f"WSD-S − WSD at {end} {found}" for end, found in wsd_s.items()),
            f"best peak from {ends[0]} to {ends[-1]} steps: "
            + ", ".join(
                f"{name} times {np.exp(d.mean):.2f} [{np.exp(d.low):.2f}, "
                f"{np.exp(d.high):.2f}]"
                for name, d in drift.items()
            ),
            f"WSqD − WSD 20 % at {ends[-1]} {gap('WSqD', 'WSD', ends[-1])}",
        ],
        {name: [grid] for name, grid in named.items()},
        lambda axes: curves(axes, of_peaks(drawn), "peak learning rate"),
    )
