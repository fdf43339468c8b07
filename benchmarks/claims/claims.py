"""The claims: what each needs to be run, and what the numbers say of it."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from optax_wsd import gamma_from_half_life, laws

from .specs import SHAPES, learning_rates
from .study import (
    ADAMW,
    SCHEDULE_FREE,
    TIE,
    Finding,
    Study,
    differs,
    level,
    optimum,
    spread,
)


@dataclasses.dataclass(frozen=True)
class Claim:
    number: int
    text: str
    source: str
    test: Callable[[Study], Finding]

    @property
    def name(self) -> str:
        return self.test.__name__


CLAIMS: dict[int, Claim] = {}

FRACTIONS = (0.025, 0.05, 0.1, 0.2, 0.4, 0.6)


def claim(number: int, text: str, source: str):
    def register(test):
        CLAIMS[number] = Claim(number, text, source, test)
        return test

    return register


def verdict(holds: bool) -> str:
    return "holds" if holds else "does not hold here"


def knee(losses: dict[float, np.ndarray]) -> float:
    """The smallest key whose mean loss ties with the best."""
    means = {key: float(np.mean(value)) for key, value in losses.items()}
    return min(key for key in means if means[key] <= min(means.values()) + TIE)


def tuned_losses(study: Study) -> dict[tuple[str, float], np.ndarray]:
    """Every method at every peak of the grid: claims 2, 3 and 14 look at these."""
    scale, total = study.scale, study.scale.steps
    fifth, two_fifths = scale.at(0.2), scale.at(0.4)
    short = {
        "constant": study.stable,
        "WSD 20 % linear": lambda p: study.wsd(p, total, fifth, "linear"),
        "WSD 20 % 1-sqrt": lambda p: study.wsd(p, total, fifth),
    }
    long = {
        "WSD 40 % 1-sqrt": lambda p: study.wsd(p, total, two_fifths),
        "cosine to 10 %": lambda p: study.cosine(p, total, 0.1),
        "cosine to zero": lambda p: study.cosine(p, total),
        "linear to zero": lambda p: study.linear(p, total),
    }
    grids = [(short, scale.peaks), (long, scale.falling_peaks)]
    return study.losses(
        {
            (name, peak): {"schedule": make(peak)}
            for methods, peaks in grids
            for name, make in methods.items()
            for peak in peaks
        }
    )


def best_of(study: Study, losses, name: str) -> tuple[float, np.ndarray]:
    """The peak at which a method's mean loss is lowest, and its losses there."""
    peaks = [peak for method, peak in losses if method == name]
    peak = min(peaks, key=lambda p: np.mean(losses[name, p]))
    return peak, losses[name, peak]


@claim(
    1,
    "Cosine is best only when its length is the length of training",
    "Hoffmann et al. 2203.15556; Hu et al. 2404.06395, fig. 4",
)
def horizon(study: Study) -> Finding:
    scale, peak = study.scale, study.scale.cosine_peak
    ends = [scale.at(0.5), scale.at(1), scale.at(2)]
    asked: dict[Any, dict] = {
        (length, end): {"schedule": study.cosine(peak, length, 0.1), "steps": end}
        for length in ends
        for end in ends
        if end <= 2 * length
    }
    losses = study.losses(asked)
    worst = []
    for end in ends:
        others = [k for k in asked if k[1] == end and k[0] != end]
        worst += [losses[k] - losses[end, end] for k in others]
    holds = all(np.mean(d) > 0 and differs(d) for d in worst)
    middle = ends[1]
    ours = (
        f"at {middle} steps, against the cosine of that length: one for {ends[0]} "
        f"{spread(losses[ends[0], middle] - losses[middle, middle])}, one for "
        f"{ends[2]} {spread(losses[ends[2], middle] - losses[middle, middle])}"
    )

    def draw(axes):
        for length in ends:
            points = [end for end in ends if (length, end) in losses]
            axes.plot(
                points,
                [np.mean(losses[length, end]) for end in points],
                marker="o",
                label=f"cosine for {length} steps",
            )
        axes.set(xlabel="steps of training", ylabel="loss")
        _ticks(axes, ends, "{}")

    return Finding(ours, verdict(holds), draw)


@claim(
    2,
    "WSD with a cooldown of 20 % matches cosine",
    "Hägele et al. 2405.18392: −0.002 against cosine to 10 %; "
    "their logs: +0.007 against cosine to zero",
)
def against_cosine(study: Study) -> Finding:
    losses = tuned_losses(study)
    wsd = min(
        (best_of(study, losses, f"WSD 20 % {s}")[1] for s in ("linear", "1-sqrt")),
        key=np.mean,
    )
    longer = best_of(study, losses, "WSD 40 % 1-sqrt")[1]
    baselines = {
        name: best_of(study, losses, name)[1]
        for name in ("cosine to 10 %", "cosine to zero", "linear to zero")
    }
    ours = "; ".join(
        f"{ours}: "
        + ", ".join(f"{spread(mine - b)} against {n}" for n, b in baselines.items())
        for ours, mine in (("WSD 20 %", wsd), ("WSD 40 %", longer))
    )
    cosines = ("cosine to 10 %", "cosine to zero")
    matched = [n for n in cosines if np.mean(wsd - baselines[n]) <= TIE]
    if len(matched) == len(cosines):
        said = verdict(True)
    elif all(np.mean(longer - baselines[n]) <= TIE for n in cosines):
        said = "holds only with a cooldown of 40 %"
    elif matched:
        said = f"holds only against {matched[0]}"
    else:
        said = verdict(False)
    return Finding(ours, said)


@claim(
    3,
    "The best peak: constant < WSD 20 % < cosine to zero; constant is half of cosine's",
    "Hägele et al. 2405.18392 (half); their logs: 0.19 : 0.65–0.75 : 1",
)
def best_peak(study: Study) -> Finding:
    losses = tuned_losses(study)
    names = list(dict.fromkeys(name for name, _ in losses))
    grid = {n: [peak for name, peak in losses if name == n] for n in names}
    best = {}
    for name, peaks in grid.items():
        values = np.array([losses[name, peak] for peak in peaks])
        best[name] = np.array([optimum(peaks, column)[0] for column in values.T])
    mean = {name: np.exp(np.mean(np.log(value))) for name, value in best.items()}
    zero = mean["cosine to zero"]
    ours = "; ".join(
        f"{name} {mean[name]:.1e} ({mean[name] / zero:.2f})" for name in names
    )
    constant, wsd = mean["constant"], mean["WSD 20 % 1-sqrt"]
    ordered = constant < wsd < zero
    half = 0.4 <= constant / zero <= 0.6
    said = {
        (True, True): "holds",
        (True, False): f"the order holds; the ratio is {constant / zero:.2f}, not 0.5",
        (False, True): "the half holds; the order does not hold here",
        (False, False): "does not hold here",
    }[ordered, half]

    def draw(axes):
        for name in names:
            values = [np.mean(losses[name, p]) for p in grid[name]]
            axes.plot(grid[name], values, marker="o", label=name)
        lowest = min(np.mean(value) for value in losses.values())
        axes.set(xlabel="peak learning rate", ylabel="loss")
        axes.set_ylim(lowest - 0.01, lowest + 0.2)
        _ticks(axes, sorted({peak for _, peak in losses}), "{:g}")

    return Finding(ours, said, draw)


@claim(
    4,
    "1 − √p beats linear, more so at high peaks; other shapes",
    "Hägele et al. 2405.18392; their logs: +0.002 at a low to −0.012 at a high peak",
)
def shape(study: Study) -> Finding:
    scale, total = study.scale, study.scale.steps
    middle = scale.peaks[1:-1]
    asked: dict[Any, dict] = {
        (name, peak): {"schedule": study.wsd(peak, total, scale.at(0.2), name)}
        for name in SHAPES
        for peak in (scale.peaks if name in ("linear", "one_minus_sqrt") else middle)
    }
    losses = study.losses(asked)
    gain = {key: value - losses["linear", key[1]] for key, value in losses.items()}
    sqrt = [gain["one_minus_sqrt", peak] for peak in scale.peaks]
    means = [float(np.mean(d)) for d in sqrt]
    at_tuned = sorted(SHAPES, key=lambda name: np.mean(losses[name, scale.peak]))
    ours = (
        "1 − √p minus linear at "
        + ", ".join(
            f"{p:.0e}: {spread(d)}" for p, d in zip(scale.peaks, sqrt, strict=True)
        )
        + f"; order at {scale.peak:.0e}: {', '.join(at_tuned)}"
    )
    grows = np.polyfit(np.log(scale.peaks), means, 1)[0] < 0
    if all(mean < 0 for mean in means) and grows:
        said = verdict(True)
    elif any(mean < 0 for mean in means) and grows:
        first = next(p for p, mean in zip(scale.peaks, means, strict=True) if mean < 0)
        said = (
            f"holds only from a peak of {first:.0e} on (the best is {scale.peak:.0e})"
        )
    else:
        said = verdict(False)

    def draw(axes):
        for name in SHAPES:
            peaks = [p for p in scale.peaks if (name, p) in gain]
            values = np.array([gain[name, p] for p in peaks])
            axes.errorbar(
                peaks,
                values.mean(axis=1),
                yerr=_error(values),
                marker="o",
                markersize=3,
                label=name,
            )
        axes.set(xlabel="peak learning rate", ylabel="loss − loss of linear")
        _ticks(axes, scale.peaks, "{:g}")

    return Finding(ours, said, draw)


@claim(
    5,
    "The gain of a longer cooldown levels off at 20 %; 10 % is enough, 2.5 % is not",
    "Hägele et al. 2405.18392, fig. 5; Hu et al. 2404.06395: 2.5 % is +0.06",
)
def length(study: Study) -> Finding:
    scale, total = study.scale, study.scale.steps
    peaks = scale.peaks[1:-1]
    losses = study.losses(
        {
            (f, peak): {"schedule": study.wsd(peak, total, scale.at(f))}
            for f in FRACTIONS
            for peak in peaks
        }
    )
    ours = "; ".join(
        f"{f:.1%}: " + spread(losses[f, scale.peak] - losses[0.2, scale.peak])
        for f in FRACTIONS
        if f != 0.2
    )
    knees = {peak: knee({f: losses[f, peak] for f in FRACTIONS}) for peak in peaks}
    best = {p: min(FRACTIONS, key=lambda f: np.mean(losses[f, p])) for p in peaks}
    ours = (
        f"against 20 % at {scale.peak:.0e}: {ours}. Shortest within {TIE} of the best: "
        + ", ".join(f"{knees[p]:.0%} at {p:.0e} (best {best[p]:.0%})" for p in peaks)
    )
    knee_here = knees[scale.peak]
    said = (
        verdict(True)
        if knee_here <= 0.1
        else f"holds only from {knee_here:.0%} on here"
    )

    def draw(axes):
        for peak in peaks:
            values = np.array([losses[f, peak] for f in FRACTIONS])
            axes.errorbar(
                FRACTIONS,
                values.mean(axis=1),
                marker="o",
                label=f"peak {peak:.0e}",
            )
        axes.set(xlabel="cooldown, part of the run", ylabel="loss")
        _ticks(axes, FRACTIONS, "{:.3g}")

    return Finding(ours, said, draw)


@claim(
    6,
    "A longer run needs a smaller part: 5 % at 4 times the length matches cosine",
    "Hägele et al. 2405.18392, fig. 6 (200k steps)",
)
def long_runs(study: Study) -> Finding:
    scale, peak = study.scale, study.scale.peak
    totals = [scale.at(0.5), scale.at(1), scale.at(2)]
    fractions = (0.05, 0.1, 0.2, 0.4)
    asked: dict[Any, dict] = {
        (total, f): {
            "schedule": study.wsd(peak, total, _chunks(scale, f * total)),
            "steps": total,
        }
        for total in totals
        for f in fractions
    }
    asked |= {
        (total, "cosine"): {
            "schedule": study.cosine(scale.cosine_peak, total, 0.1),
            "steps": total,
        }
        for total in totals
    }
    losses = study.losses(asked)
    gaps = [losses[total, 0.05] - losses[total, "cosine"] for total in totals]
    knees = [knee({f: losses[total, f] for f in fractions}) for total in totals]
    ours = "5 % minus cosine to 10 %: " + ", ".join(
        f"{spread(gap)} at {total}" for gap, total in zip(gaps, totals, strict=True)
    )
    ours += (
        "; shortest within "
        + f"{TIE} of the best: "
        + ", ".join(
            f"{k:.0%} at {total}" for k, total in zip(knees, totals, strict=True)
        )
    )
    if np.mean(gaps[-1]) <= TIE:
        said = verdict(True)
    elif knees[-1] < knees[0] or np.mean(gaps[-1]) < np.mean(gaps[0]) - TIE:
        said = "the trend holds; 5 % does not match cosine at these lengths"
    else:
        said = verdict(False)

    def draw(axes):
        for total in totals:
            values = [
                np.mean(losses[total, f] - losses[total, "cosine"]) for f in fractions
            ]
            axes.plot(fractions, values, marker="o", label=f"{total} steps")
        axes.axhline(0, color="gray", linewidth=1)
        axes.set(
            xlabel="cooldown, part of the run",
            ylabel="loss − loss of cosine to 10 %",
        )
        _ticks(axes, fractions, "{:.0%}")

    return Finding(ours, said, draw)


@claim(
    7,
    "Averaging a constant run recovers most of the cooldown's gain, and adds nothing "
    "after a cooldown",
    "Hägele et al. 2405.18392: SWA closes 83 % (their logs); EMA worse than SWA",
)
def averages(study: Study) -> Finding:
    scale, total = study.scale, study.scale.steps
    peaks = (scale.stable_peak, scale.peak)
    kinds = _averages(study)
    cooled = "WSD 20 %", "WSD 40 %"
    asked: dict[Any, dict] = {}
    for peak in peaks:
        stable = study.stable(peak)
        asked["last", peak] = {"schedule": stable}
        asked |= {
            (name, peak): {"schedule": stable, "average": average}
            for name, average in kinds.items()
        }
        for name, fraction in zip(cooled, (0.2, 0.4), strict=True):
            schedule = study.wsd(peak, total, scale.at(fraction))
            asked[name, peak] = {"schedule": schedule}
    after = study.wsd(scale.peak, total, scale.at(0.2))
    short = {k: v for k, v in kinds.items() if k.endswith((" 2.5 %", " 5 %"))}
    asked |= {
        (name, "after"): {"schedule": after, "average": average}
        for name, average in short.items()
    }
    losses = study.losses(asked)

    def tuned(name):
        return min((losses[name, peak] for peak in peaks), key=np.mean)

    last, target = tuned("last"), min(map(tuned, cooled), key=np.mean)
    share = {n: np.mean(last - tuned(n)) / np.mean(last - target) for n in kinds}
    families = dict.fromkeys(name.split()[0] for name in kinds)
    best = {
        f: max((n for n in kinds if n.split()[0] == f), key=share.__getitem__)
        for f in families
    }
    winner = max(share, key=share.__getitem__)
    fifth = losses["WSD 20 %", scale.peak]
    more = min((losses[n, "after"] for n in short), key=np.mean) - fifth
    ours = (
        "share of the better cooldown's gain, each at its better peak: "
        + ", ".join(f"{name} {share[name]:.0%}" for name in best.values())
        + f"; {winner} minus the better cooldown {spread(tuned(winner) - target)}"
        + f"; best average after the cooldown {spread(more)}"
    )
    recovers, nothing = share[winner] >= 0.75, np.mean(more) > -TIE / 2
    said = {
        (True, True): "holds",
        (True, False): "the first part holds; averaging helps after this cooldown too",
        (False, True): f"holds only in part: {share[winner]:.0%} at most",
        (False, False): "does not hold here",
    }[bool(recovers), bool(nothing)]

    def draw(axes):
        widths = [2.5, 5, 10, 20, 40]
        for i, family in enumerate(families):
            at = [w for w in widths if f"{family} {w:g} %" in kinds]
            for peak, dash in zip(peaks, ("-", "--"), strict=True):
                values = [np.mean(losses[f"{family} {w:g} %", peak]) for w in at]
                label = family if peak == peaks[0] else None
                axes.plot(at, values, dash, marker="o", color=f"C{i}", label=label)
        axes.axhline(np.mean(last), color="gray", label="no average")
        axes.axhline(np.mean(target), color="black", ls=":", label="best cooldown")
        xlabel = f"width of the average, % of the run (dashed: peak {peaks[1]:.0e})"
        axes.set(xlabel=xlabel, ylabel="loss")
        _ticks(axes, widths, "{:g}")

    return Finding(ours, said, draw)


def _averages(study: Study) -> dict[str, dict]:
    """Averages of each kind, by their width as a part of the run.

    The width of an EMA is its horizon 1 / (1 - decay), that of a power EMA its
    half-life over ln 2: the same thing at the last step.
    """
    scale, total = study.scale, study.scale.steps
    kinds = {}
    for percent in (2.5, 5, 10, 20, 40):
        width = scale.at(percent / 100)
        kinds[f"SWA {percent:g} %"] = {"name": "swa", "start_step": total - width}
        kinds[f"EMA {percent:g} %"] = {"name": "ema", "decay": 1 - 1 / width}
        kinds[f"power-EMA {percent:g} %"] = {
            "name": "power_ema",
            "gamma": gamma_from_half_life(math.log(2) * percent / 100),
        }
        if percent >= 10:  # six snapshots, as in the paper
            spacing = round(width / 6 / (scale.chunk // scale.snapshots))
            every = max(1, spacing) * (scale.chunk // scale.snapshots)
            kinds[f"LAWA {percent:g} %"] = {"name": "lawa", "size": 6, "every": every}
    return kinds


@claim(
    8,
    "Merging snapshots of a constant run with decay-shaped weights equals the decay",
    "Tian et al. 2507.17634: better downstream, the loss slightly higher",
)
def merging(study: Study) -> Finding:
    scale, total = study.scale, study.scale.steps
    names, parts = ("linear", "one_minus_sqrt", "cosine"), (0.1, 0.2, 0.4)
    every = scale.chunk
    stable = study.stable(scale.peak)
    asked: dict[Any, dict] = {"last": {"schedule": stable}}
    for f in parts:
        size = scale.at(f) // every
        for name in names:
            average = {"name": "merge", "shape": name, "size": size, "every": every}
            asked["merge", name, f] = {"schedule": stable, "average": average}
            schedule = study.wsd(scale.peak, total, scale.at(f), name)
            asked["decay", name, f] = {"schedule": schedule}
    losses = study.losses(asked)
    gap = {k: losses["merge", *k] - losses["decay", *k] for k in _pairs(names, parts)}
    gain = {k: np.mean(losses["last"] - losses["decay", *k]) for k in gap}
    ours = "merge minus decay: " + "; ".join(
        f"over {f:.0%} " + ", ".join(f"{n} {spread(gap[n, f])}" for n in names)
        for f in parts
    )
    within = [k for k in gap if np.mean(gap[k]) <= TIE]
    if len(within) == len(gap):
        said = verdict(True)
    elif within:
        said = "holds only for " + ", ".join(f"{n} over {f:.0%}" for n, f in within)
    else:
        shares = [1 - np.mean(gap[k]) / gain[k] for k in gap]
        said = (
            "does not hold here: the merge brings "
            f"{min(shares):.0%} to {max(shares):.0%} of the decay's gain"
        )

    def draw(axes):
        for name in names:
            for kind, dash in (("decay", "-"), ("merge", "--")):
                values = [np.mean(losses[kind, name, f]) for f in parts]
                color = f"C{names.index(name)}"
                axes.plot(
                    parts,
                    values,
                    dash,
                    marker="o",
                    color=color,
                    label=f"{kind}, {name}",
                )
        axes.axhline(np.mean(losses["last"]), color="gray", label="constant")
        axes.set(xlabel="window, part of the run", ylabel="loss")
        _ticks(axes, parts, "{:.0%}")

    return Finding(ours, said, draw)


@claim(
    9,
    "Schedule-free matches tuned cosine, is sensitive to b1, and C cures that; "
    "a cooldown adds nothing to it",
    "Defazio et al. 2405.15682; Song et al. 2507.09846: C is worth 0.06–0.14",
)
def schedule_free(study: Study) -> Finding:
    scale, total = study.scale, study.scale.steps
    b1s, cs = (0.9, 0.95, 0.98), (10, 20, 50)

    def run(peak, b1, c=None, cooldown=0):
        # C = 1 / (1 - b1) is plain schedule-free.
        optimizer = SCHEDULE_FREE | {"b1": b1, "decoupling": c or round(1 / (1 - b1))}
        return {"schedule": study.wsd(peak, total, cooldown), "optimizer": optimizer}

    peaks, peak = scale.schedule_free_peaks, scale.schedule_free_peak
    asked: dict[Any, dict] = {(b1, p): run(p, b1) for b1 in b1s for p in peaks}
    asked |= {("C", b1, c): run(peak, b1, c) for b1 in b1s for c in cs}
    asked["cooled"] = run(peak, b1s[0], cooldown=scale.at(0.1))
    asked["AdamW"] = {"schedule": study.stable(scale.peak)}
    asked["AdamW cooled"] = {"schedule": study.wsd(scale.peak, total, scale.at(0.1))}
    # Schedule-free has the second moment that suits it; AdamW may choose.
    for b2 in (ADAMW["b2"], SCHEDULE_FREE["b2"]):
        long = study.wsd(scale.cosine_peak, total, scale.at(0.4))
        cosine = study.cosine(scale.cosine_peak, total)
        for name, schedule in (("WSD", long), ("cosine", cosine)):
            asked[name, b2] = {"schedule": schedule, "optimizer": ADAMW | {"b2": b2}}
    losses = study.losses(asked)
    for name in ("WSD", "cosine"):
        both = [losses[name, b2] for b2 in (ADAMW["b2"], SCHEDULE_FREE["b2"])]
        losses[name] = min(both, key=np.mean)
    cooled = losses["cooled"] - losses[b1s[0], peak]
    plain = {b1: min((losses[b1, p] for p in peaks), key=np.mean) for b1 in b1s}
    refined = {b1: min((losses["C", b1, c] for c in cs), key=np.mean) for b1 in b1s}
    c_of = {b1: min(cs, key=lambda c: np.mean(losses["C", b1, c])) for b1 in b1s}
    best = min([*plain.values(), *refined.values()], key=np.mean)
    ours = (
        f"best schedule-free {spread(best - losses['cosine'])} against cosine to zero, "
        f"{spread(best - losses['WSD'])} against WSD 40 %; plain, tuned peak: "
        + ", ".join(f"b1 {b1}: {level(plain[b1])}" for b1 in b1s)
        + "; best C at one peak: "
        + ", ".join(f"b1 {b1}: {level(refined[b1])} (C {c_of[b1]:g})" for b1 in b1s)
        + "; cooldown of 10 %: "
        f"{spread(cooled)} after schedule-free, "
        f"{spread(losses['AdamW cooled'] - losses['AdamW'])} after AdamW"
    )
    plain_range = np.ptp([np.mean(v) for v in plain.values()])
    refined_range = np.ptp([np.mean(v) for v in refined.values()])
    said = [
        _part("matches cosine", np.mean(best - losses["cosine"]) <= TIE),
        _part("sensitive to b1", plain_range > 2 * TIE),
        _part("C cures it", refined_range < plain_range / 2),
        _part(
            "no gain from a cooldown",
            np.mean(cooled) > -TIE,
        ),
    ]

    def draw(axes):
        for b1 in b1s:
            values = [np.mean(losses["C", b1, c]) for c in cs]
            axes.plot(cs, values, marker="o", label=f"b1 = {b1}")
        for name, dash in (("cosine", "--"), ("WSD", ":")):
            axes.axhline(np.mean(losses[name]), color="black", ls=dash, label=name)
        axes.set(xlabel="C", ylabel="loss")
        _ticks(axes, cs, "{:g}")

    return Finding(ours, "; ".join(said), draw)


@claim(
    10,
    "A sweep of budgets from one trunk gives the scaling curve of separate cosine runs "
    "at half the compute",
    "Hu et al. 2404.06395: O(m) against O(m²); Hägele et al. 2405.18392: 0.4–0.6",
)
def scaling(study: Study) -> Finding:
    scale = study.scale
    budgets = [scale.at(f) for f in (0.25, 0.5, 0.75, 1)]
    models = {w: dataclasses.replace(scale.model, width=w) for w in scale.widths}
    asked: dict[Any, dict] = {}
    for width, model in models.items():
        for total in budgets:
            cooldown = _chunks(scale, 0.2 * total)
            schedules = {
                "WSD": study.wsd(scale.peak, total, cooldown),
                "cosine": study.cosine(scale.cosine_peak, total, 0.1),
            }
            for name, schedule in schedules.items():
                run = {"schedule": schedule, "steps": total, "model": model}
                asked[name, width, total] = run
    losses = study.losses(asked)
    gap = [
        losses["WSD", w, t] - losses["cosine", w, t] for w in models for t in budgets
    ]
    cooldowns = [_chunks(scale, 0.2 * total) for total in budgets]
    paid = budgets[-1] - cooldowns[-1] + sum(cooldowns)
    share = paid / sum(budgets)
    fits = {
        name: [
            _power_law(budgets, [losses[name, w, t] for t in budgets]) for w in models
        ]
        for name in ("WSD", "cosine")
    }
    doubled = [fits["WSD"][i][1] - fits["cosine"][i][1] for i in range(len(models))]
    largest = np.max(np.abs(np.mean(gap, axis=1)))
    ours = (
        f"compute {share:.2f} of the separate runs'; WSD minus cosine over "
        f"{len(gap)} points: {np.mean(gap):+.4f}, at most {largest:.4f}; "
        "fitted curves at twice the longest budget differ by "
        + ", ".join(
            f"{d:+.3f} (width {w})" for d, w in zip(doubled, models, strict=True)
        )
    )
    agrees = np.abs(doubled) < 2 * TIE
    if share < 0.7 and agrees[-1] and not np.all(agrees):
        # The peaks were tuned at the last width alone.
        said = f"holds only at width {scale.widths[-1]}, where the peaks were tuned"
    else:
        said = verdict(bool(share < 0.7 and np.all(agrees)))

    def draw(axes):
        for i, width in enumerate(models):
            for name, dash in (("WSD", "-"), ("cosine", "--")):
                values = [np.mean(losses[name, width, t]) for t in budgets]
                label = f"{name}, width {width}"
                axes.plot(budgets, values, dash, marker="o", color=f"C{i}", label=label)
        axes.set(xlabel="steps", ylabel="loss")
        _ticks(axes, budgets, "{}")

    return Finding(ours, said, draw)


@claim(
    11,
    "Multi-step equals cosine; WSD-S equals WSD at equal compute; the peak of "
    "1/√t with a cooldown (WSqD) serves every horizon",
    "DeepSeek 2401.02954; Wen et al. 2410.05192; WSqD 2607.10959",
)
def relatives(study: Study) -> Finding:
    scale, total = study.scale, study.scale.steps
    peaks = scale.peaks[1:]
    ends = [scale.at(0.5), scale.at(1), scale.at(2)]
    cooldown = scale.at(0.1)
    asked: dict[Any, dict] = {
        ("multi-step", p): {"schedule": study.multistep(p, total)} for p in peaks
    }
    asked |= {
        (name, p): {"schedule": make(p)}
        for p in peaks
        for name, make in {
            "cosine": lambda p: study.cosine(p, total, 0.1),
            "WSD 20 %": lambda p: study.wsd(p, total, scale.at(0.2)),
        }.items()
    }
    wsds = study.wsds(scale.peak, ends, cooldown)
    for i, end in enumerate(ends):
        # The branches of WSD before this one have cost a cooldown each.
        left = end - i * cooldown
        asked["WSD-S", i] = {"schedule": wsds, "steps": end}
        branch = study.wsd(scale.peak, left, cooldown)
        asked["WSD", i] = {"schedule": branch, "steps": left}
    for p in peaks:
        for end in ends:
            stop = _chunks(scale, 0.2 * end)
            falling = study.inverse_sqrt(p, offset=ends[0])
            asked["WSqD", p, end] = {
                "schedule": study.cooled(falling, end - stop, stop),
                "steps": end,
            }
            asked["WSD", p, end] = {"schedule": study.wsd(p, end, stop), "steps": end}
    losses = study.losses(asked)
    tuned = {
        name: min((losses[name, p] for p in peaks), key=np.mean)
        for name in ("multi-step", "cosine", "WSD 20 %")
    }
    against = {
        name: tuned["multi-step"] - tuned[name] for name in ("cosine", "WSD 20 %")
    }
    wsd_s = [losses["WSD-S", i] - losses["WSD", i] for i in range(len(ends))]
    best = {
        name: [
            optimum(peaks, np.array([np.mean(losses[name, p, end]) for p in peaks]))[0]
            for end in ends
        ]
        for name in ("WSqD", "WSD")
    }
    drift = {name: value[-1] / value[0] for name, value in best.items()}
    longest = [
        min((losses[n, p, ends[-1]] for p in peaks), key=np.mean)
        for n in ("WSqD", "WSD")
    ]
    ours = (
        f"multi-step {spread(against['cosine'])} against cosine to 10 %, "
        f"{spread(against['WSD 20 %'])} against WSD 20 %; WSD-S minus WSD at equal "
        f"compute: {', '.join(map(spread, wsd_s))}; best peak from {ends[0]} to "
        f"{ends[-1]} steps: WSqD times {drift['WSqD']:.2f}, WSD times "
        f"{drift['WSD']:.2f}; WSqD minus WSD at {ends[-1]}, tuned: "
        f"{spread(longest[0] - longest[1])}"
    )
    said = [
        _part("multi-step ties with cosine", abs(np.mean(against["cosine"])) <= TIE),
        _part("WSD-S ties with WSD or beats it", max(map(np.mean, wsd_s)) <= TIE),
        _part(
            "WSqD's peak stays",
            abs(np.log(drift["WSqD"])) < min(0.35, abs(np.log(drift["WSD"]))),
        ),
    ]

    def draw(axes):
        for i, end in enumerate(ends):
            for name, dash in (("WSqD", "-"), ("WSD", "--")):
                values = np.array([np.mean(losses[name, p, end]) for p in peaks])
                label = f"{name}, {end} steps"
                axes.plot(peaks, values, dash, marker="o", color=f"C{i}", label=label)
        axes.set(xlabel="peak learning rate", ylabel="loss")
        _ticks(axes, peaks, "{:g}")

    return Finding(ours, "; ".join(said), draw)


@claim(
    12,
    "Loss falls monotonically on the line from the weights before a cooldown to those "
    "after it",
    "Hägele et al. 2405.18392, fig. 10",
)
def line(study: Study) -> Finding:
    scale, total = study.scale, study.scale.steps
    shares = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2)
    start = total - scale.at(0.2)
    schedule = study.wsd(scale.peak, total, total - start)
    losses = study.losses(
        {share: {"schedule": schedule, "line": (start, share)} for share in shares}
    )
    path = np.array([losses[share] for share in shares if share <= 1])
    falls = np.diff(path, axis=0) < 0
    ours = (
        f"{level(path[0])} before, {level(path[-1])} after; "
        f"{np.sum(falls)} of {falls.size} stretches fall; beyond the end, at 1.2: "
        f"{spread(losses[1.2] - losses[1.0])}"
    )

    def draw(axes):
        for seed in range(path.shape[1]):
            values = [losses[share][seed] for share in shares]
            axes.plot(shares, values, marker="o", label=f"seed {seed}")
        axes.axvline(1, color="gray", linewidth=1)
        axes.set(xlabel="from before (0) to after (1) the cooldown", ylabel="loss")

    return Finding(ours, verdict(bool(np.all(falls))), draw)


@claim(
    13,
    "New data is best mixed into the cooldown; an infinite schedule forgets less than "
    "re-warmed cosine",
    "Hu et al. 2404.06395, table 1; Ibrahim et al. 2403.08763",
)
def continual(study: Study) -> Finding:
    scale, total = study.scale, study.scale.steps
    fifth, eighth = scale.at(0.2), 1 / 8
    start = total - fifth
    decay = study.wsd(scale.peak, total, fifth)
    early = study.wsd(scale.peak, start, fifth)
    early = early | {"end_value": scale.peak / 10}
    plans = {
        "in the cooldown": (decay, ("other", 0.5, start, total)),
        "before": (decay, ("other", 0.5, start - fifth, start)),
        "after": (early, ("other", 0.5, start, total)),
        # As many rows of it, spread over the last 80 %.
        "evenly": (decay, ("other", eighth, fifth, fifth + 4 * fifth)),
        "never": (decay, None),
    }
    both = {}
    for name, (schedule, mixture) in plans.items():
        for text in ("jax", "other"):
            both[name, text] = {
                "schedule": schedule,
                "mixture": mixture,
                "validate_on": text,
            }
    second = ("other", 1.0, total, 2 * total)
    stages = {
        "infinite": study.cooled(
            study.infinite(scale.cosine_peak, scale.peak / 2), 2 * total - fifth, fifth
        ),
        "re-warmed": study.rewarmed(scale.cosine_peak, total),
    }
    for name, schedule in stages.items():
        for text in ("jax", "other"):
            both[name, text] = {
                "schedule": schedule,
                "steps": 2 * total,
                "mixture": second,
                "validate_on": text,
            }
    losses = study.losses(both)
    base = losses["in the cooldown", "other"]
    others = ("before", "after", "evenly")
    ours = "loss on the new text, against mixing into the cooldown: " + ", ".join(
        f"{name} {spread(losses[name, 'other'] - base)}" for name in (*others, "never")
    )
    ours += "; on the old text: " + ", ".join(
        f"{name} {spread(losses[name, 'jax'] - losses['in the cooldown', 'jax'])}"
        for name in others
    )
    forgot = losses["infinite", "jax"] - losses["re-warmed", "jax"]
    learned = losses["infinite", "other"] - losses["re-warmed", "other"]
    ours += (
        "; infinite minus re-warmed cosine, two texts in turn: "
        f"old {spread(forgot)}, new {spread(learned)}"
    )
    mixed = all(np.mean(losses[name, "other"] - base) > 0 for name in others)
    said = [
        _part("best mixed into the cooldown", mixed),
        _part("infinite forgets less", np.mean(forgot) < 0),
    ]

    def draw(axes):
        for name in (*plans, *stages):
            x, y = (np.mean(losses[name, text]) for text in ("jax", "other"))
            axes.plot(x, y, "o", markersize=8, label=name)
        axes.set(xlabel="loss on the old text", ylabel="loss on the new text")

    return Finding(ours, "; ".join(said), draw)


@claim(
    14,
    "A loss law fitted to a stable run and one cooldown predicts other schedules",
    "Luo et al. 2503.12811: mean error 0.005; Tissue et al. 2408.11029",
)
def loss_laws(study: Study) -> Finding:
    scale, total = study.scale, study.scale.steps
    peak, every = scale.peak, scale.at(0.05)
    curves = {
        "stable": study.stable(peak),
        "WSD 20 %": study.wsd(peak, total, scale.at(0.2)),
        "WSD 40 %": study.wsd(peak, total, scale.at(0.4)),
        "cosine to zero": study.cosine(peak, total),
        "linear to zero": study.linear(peak, total),
        "multi-step": study.multistep(peak, total),
    }
    fitted = ("stable", "WSD 20 %")
    asked: dict[Any, dict] = {
        (name, step): {"schedule": schedule, "steps": step}
        for name, schedule in curves.items()
        for step in (range(every, total + 1, every) if name in fitted else [total])
    }
    losses = study.losses(asked)
    errors = {name: [] for name in curves if name not in fitted}
    for seed in range(study.answered):
        known = []
        for name in fitted:
            steps = [step for key, step in asked if key == name and step > total // 5]
            values = [losses[name, step][seed] for step in steps]
            known.append((learning_rates(curves[name], total), steps, values))
        law = laws.fit_loss_law(known)
        for name in errors:
            predicted = law.predict(learning_rates(curves[name], total), total)
            errors[name].append(float(predicted) - losses[name, total][seed])
    ours = "predicted minus measured at the end: " + ", ".join(
        f"{name} {spread(np.array(value))}" for name, value in errors.items()
    )
    worst = max(abs(np.mean(value)) for value in errors.values())
    said = "holds" if worst <= 2 * TIE else f"holds only within {worst:.3f}"

    return Finding(ours, said)


def _part(text: str, holds) -> str:
    return f"{text}: {'yes' if holds else 'no'}"


def _pairs(first, second):
    return [(a, b) for b in second for a in first]


def _chunks(scale, steps: float) -> int:
    """Steps, rounded to whole chunks, at least one."""
    return max(1, round(steps / scale.chunk)) * scale.chunk


def _ticks(axes, at, label: str) -> None:
    """A logarithmic axis with ticks where there are points."""
    axes.set_xscale("log")
    axes.set_xticks(at, [label.format(value) for value in at])
    axes.minorticks_off()


def _error(values: np.ndarray) -> np.ndarray | None:
    """Standard errors over the seeds in the last axis."""
    seeds = values.shape[-1]
    return values.std(axis=-1, ddof=1) / seeds**0.5 if seeds > 1 else None


def _power_law(steps, losses) -> tuple[float, float]:
    """The exponent of floor + b steps^-a, and its value at twice the last of steps."""
    means = np.array([np.mean(value) for value in losses])
    logs = np.log(np.asarray(steps, float))

    def fit(a):
        columns = np.stack([np.ones_like(logs), np.exp(-a * logs)], axis=1)
        factors = np.linalg.lstsq(columns, means, rcond=None)[0]
        return factors, float(np.sum((columns @ factors - means) ** 2))

    a = min(np.linspace(0.05, 1.5, 59), key=lambda a: fit(a)[1])
    floor, scale = fit(a)[0]
    return float(a), float(floor + scale * (2 * steps[-1]) ** -a)
