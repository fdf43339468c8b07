"""One way to draw a claim: curves over seeds, with the intervals of their means."""

import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import numpy as np  # noqa: E402
from matplotlib import pyplot as plt  # noqa: E402

from .study import Grid  # noqa: E402
from .verdicts import interval  # noqa: E402

Curves = Mapping[str, Mapping[Any, np.ndarray]]


def of_peaks(grids: Mapping[str, Grid]) -> Curves:
    """The reported losses of each method, by peak."""
    return {
        name: {peak: grid.losses[peak][:, 1] for peak in sorted(grid.losses)}
        for name, grid in grids.items()
    }


def curves(axes, lines: Curves, x: str, y="loss", levels=None, log=True) -> None:
    """A line for each label, from x to losses over the seeds; levels are dashed.

    Seeds differ by more than methods do: the bars are 95 % intervals of the means, once
    each seed's own level is taken off losses. Labels with the same beginning, up to a
    comma, have the same colour.
    """
    dashes, colors = ["-", "--", ":", "-."], {}
    level = np.mean([v for points in lines.values() for v in points.values()], axis=0)
    level *= y == "loss"
    for i, (label, points) in enumerate(lines.items()):
        group = label.split(",")[0]
        color = colors.setdefault(group, [f"C{len(colors) % 10}", 0])
        # A little apart, so that no interval hides another.
        at = np.array(list(points)) * (1.01 ** (i - len(lines) / 2) if log else 1)
        found = [interval(v - level + level.mean()) for v in points.values()]
        error = [f.error if np.isfinite(f.error) else 0.0 for f in found]
        axes.errorbar(
            at,
            [f.mean for f in found],
            yerr=error,
            fmt=dashes[color[1] % 4],
            marker="o",
            color=color[0],
            capsize=2,
            elinewidth=0.8,
            label=label,
        )
        color[1] += 1
    for i, (label, values) in enumerate((levels or {}).items(), 1):
        mean = np.mean(values)
        axes.axhline(mean, color="black", ls=dashes[i % 4], lw=1, label=label)
    axes.set(xlabel=x, ylabel=y)
    ticks = sorted({at for points in lines.values() for at in points})
    if log:
        axes.set_xscale("log")
        axes.minorticks_off()
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        if len(ticks) > 6:
            axes.tick_params(axis="x", labelrotation=45)


def draw(title: str, on_axes: Callable[[Any], None], path: Path) -> None:
    """One picture, on white, legible at the width of a phone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    style: dict[Any, Any] = {
        "font.size": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.alpha": 0.25,
        "lines.markersize": 4,
        "xtick.labelsize": 8,
    }
    with plt.rc_context(style):
        figure, axes = plt.subplots(layout="constrained")
        on_axes(axes)
        title = textwrap.fill(title.replace(" %", "\N{NO-BREAK SPACE}%"), 62)
        figure.suptitle(title, x=0.02, ha="left", fontsize=10)
        handles, labels = axes.get_legend_handles_labels()
        figure.legend(
            handles, labels, loc="outside lower center", ncols=2, frameon=False
        )
        height = 3.2 + 0.11 * len(labels) + 0.16 * title.count("\n")
        figure.set_size_inches(4.8, height)
        figure.savefig(path, dpi=160, facecolor="white")
        plt.close(figure)
