"""Claim 11: multi-step, WSD-S and 1/sqrt(t) with a cooldown."""

import numpy as np

from .c06_long_runs import lengths
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
    ends, usual = lengths(study)
    cooldown = scale.at(0.1)

    def wsds(end):
        return lambda p: {"schedule": study.wsds(p, ends, cooldown), "steps": end}

    def wsd(end):
        return lambda p: {"schedule": study.wsd(p, end, cooldown), "steps": end}

    def falling(end):
        stop = scale.chunks(0.2 * end)
        return lambda p: {
            "schedule": study.cooled(study.inverse_sqrt(p, ends[0]), end - stop, stop),
            "steps": end,
        }

    tuned = study.tune(
        {
            "multi-step": lambda p: {"schedule": study.multistep(p, total)},
            **{("WSqD", end): falling(end) for end in ends},
            **{("WSD-S", end): wsds(end) for end in ends[1:]},
            # The branches of WSD before this one have cost a cooldown each.
            **{("WSD", e): wsd(e - i * cooldown) for i, e in enumerate(ends) if i},
        },
        (-1, 0, 1),
    )
    multistep = difference(tuned["multi-step"].loss, usual[total, "cosine"].loss)
    wsd_s = {
        e: difference(tuned["WSD-S", e].loss, tuned["WSD", e].loss) for e in ends[1:]
    }
    best = {}
    for end in ends:
        best |= {("WSqD", end): tuned["WSqD", end], ("WSD", end): usual[end, 0.2]}
    drift = {
        name: interval(best[name, ends[-1]].optima() - best[name, ends[0]].optima())
        for name in ("WSqD", "WSD")
    }
    longest = difference(best["WSqD", ends[-1]].loss, best["WSD", ends[-1]].loss)
    named = {f"{end} steps, {name}": best[name, end] for name, end in best}
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
            *(f"WSD-S − WSD at {end} {gap}" for end, gap in wsd_s.items()),
            f"best peak from {ends[0]} to {ends[-1]} steps: "
            + ", ".join(
                f"{name} times {np.exp(d.mean):.2f} [{np.exp(d.low):.2f}, "
                f"{np.exp(d.high):.2f}]"
                for name, d in drift.items()
            ),
            f"WSqD − WSD 20 % at {ends[-1]} {longest}",
        ],
        {
            "multi-step": [tuned["multi-step"]],
            "cosine to 10 %": [usual[total, "cosine"]],
            **{f"{k[0]}, {k[1]}": [g] for k, g in tuned.items() if k[0] == "WSD-S"},
            **{f"WSD, {e}, equal compute": [tuned["WSD", e]] for e in ends[1:]},
            **{name: [grid] for name, grid in named.items()},
        },
        lambda axes: curves(axes, of_peaks(named), "peak learning rate"),
    )
