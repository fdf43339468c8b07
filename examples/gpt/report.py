"""The table and the picture of `compare`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from optax_wsd.laws import Cooldowns

from .progress import read_metrics, say

COLORS = {
    "stable": "#444444",
    "wsd": "#0b6e99",
    "cosine": "#d9822b",
    "schedule_free": "#4a9c5d",
}
LABELS = {
    "stable": "trunk (stable)",
    "wsd": "cooldowns from the trunk",
    "cosine": "cosine to zero",
    "schedule_free": "schedule-free",
}


def write_table(
    path: Path,
    report: dict[str, Any],
    predictions: dict[int, tuple[float, float]] | str,
) -> None:
    """Writes the report as Markdown: budgets side by side, then what was paid."""
    runs, data = report["runs"], report["data"]
    lines = [
        "| budget (steps) | branch | cosine | difference | steps: branch | cosine |",
        "|---:|---:|---:|---:|---:|---:|",
    ]
    for branch in (run for run in runs if run["schedule"] == "wsd"):
        (cosine,) = (
            run
            for run in runs
            if run["schedule"] == "cosine"
            and run["budget_steps"] == branch["budget_steps"]
        )
        lines.append(
            f"| {branch['budget_steps']} | {branch['val_loss']:.4f} "
            f"| {cosine['val_loss']:.4f} "
            f"| {branch['val_loss'] - cosine['val_loss']:+.4f} "
            f"| {branch['steps_trained']} | {cosine['steps_trained']} |"
        )
    say("\n".join(lines))
    others = [run for run in runs if run["schedule"] not in ("wsd", "cosine")]
    paid = report["steps_paid"]
    lines += [
        "",
        f"Losses are nats per {data['unit'][:-1]} on what is held out from "
        f"{data['name']} ({(data['train'] + data['held_out']) / 1e6:.1f}M "
        f"{data['unit']}). The trunk and its branches took "
        f"{paid['branched']} steps, the cosine runs {paid['cosine']}: "
        f"{report['compute_ratio']:.2f} of their compute.",
        "",
        "| no cooldown | steps | loss | bits per byte |",
        "|:---|---:|---:|---:|",
        *(
            f"| {run['name']} | {run['budget_steps']} | {run['val_loss']:.4f} "
            f"| {run.get('val_bpb', float('nan')):.4f} |"
            for run in others
        ),
        "",
        *_predicted(runs, predictions),
        "",
        "![loss and learning rate against steps](report.png)",
        "",
    ]
    path.write_text("\n".join(lines))


def _predicted(
    runs: list[dict[str, Any]], predictions: dict[int, tuple[float, float]] | str
):
    """Rows of what a law foresaw, or the sentence that says why there is none."""
    if isinstance(predictions, str):
        return [predictions]
    first = min(predictions)
    return [
        f"A law of the loss, fitted to the trunk and the branch of {first} steps; ± is "
        "half of its 90 % interval:",
        "",
        "| budget (steps) | predicted | actual | error |",
        "|---:|---:|---:|---:|",
        *(
            f"| {run['budget_steps']} | {middle:.4f} ± {width:.4f} "
            f"| {run['val_loss']:.4f} | {middle - run['val_loss']:+.4f} |"
            for run in runs
            if run["schedule"] == "wsd"
            for middle, width in [predictions[run["budget_steps"]]]
        ),
    ]


def draw(folder: Path, schedules: dict[str, str]) -> None:
    """Draws the validation loss of all runs against steps, the rates below."""
    from matplotlib.lines import Line2D

    plt = _pyplot()
    figure, (top, bottom) = plt.subplots(
        2, 1, sharex=True, figsize=(8, 5.6), height_ratios=(3, 1), layout="constrained"
    )
    ends = []
    for name, schedule in schedules.items():
        metrics = read_metrics(folder / name)
        look = {"color": COLORS[schedule], "lw": 2 if schedule != "cosine" else 1.6}
        evaluations = [line for line in metrics if "val_loss" in line]
        if schedule == "wsd":  # its curve begins on the trunk's
            first_step = metrics[0]["step"] - 1
            trunk = read_metrics(folder / "trunk")
            at_branch = [line for line in trunk if line["step"] == first_step]
            evaluations = [e for e in at_branch if "val_loss" in e] + evaluations
        losses = _curve(evaluations, "val_loss")
        top.plot(*losses, **look)
        bottom.plot(*_curve(metrics, "lr"), **look)
        ends.append(losses[1][-1])
        if schedule in ("wsd", "cosine"):
            top.plot(losses[0][-1], losses[1][-1], "o", color=look["color"], ms=5)
        if schedule == "stable":
            top.plot(*_curve(evaluations, "val_loss_ema"), **look, ls=":")
    low = min(ends)
    top.set_ylim(low - 0.05, low + 0.9)
    top.set_ylabel("validation loss (nats)")
    bottom.set_ylabel("learning rate")
    bottom.set_xlabel("step")
    bottom.set_ylim(bottom=0)
    used = [name for name in LABELS if name in schedules.values()]
    handles = [Line2D([], [], color=COLORS[s], lw=2, label=LABELS[s]) for s in used]
    averaged = Line2D([], [], color=COLORS["stable"], ls=":", lw=2)
    averaged.set_label("trunk, averaged weights")
    top.legend(handles=[handles[0], averaged, *handles[1:]], frameon=False)
    for axes in (top, bottom):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    figure.savefig(folder / "report.png", dpi=120)
    plt.close(figure)


def draw_plan(trunk: Path, plan: Cooldowns, branches: Sequence[Path]) -> None:
    """Draws a trunk, its finished branches, and where cooldowns from its end would be.

    Each prediction has its own line from the trunk and a bar, its 90 % interval: they
    are alternatives, not one run.
    """
    plt = _pyplot()
    figure, axes = plt.subplots(figsize=(5.4, 3.4), layout="constrained")
    losses = _curve(read_metrics(trunk), "val_loss")
    at = dict(zip(*losses, strict=True))
    for branch in branches:
        metrics = read_metrics(branch)
        steps, values = _curve(metrics, "val_loss")
        start = metrics[0]["step"] - 1
        if start in at:
            steps, values = [start, *steps], [at[start], *values]
        label = "cooldowns made" if branch == branches[0] else None
        axes.plot(steps, values, color=COLORS["wsd"], lw=1.6, label=label)
    axes.plot(*losses, color=COLORS["stable"], lw=2, label=LABELS["stable"])
    for length, end, loss, width in zip(*plan[:3], plan.widths, strict=True):
        best = length == plan.best
        look = {"color": COLORS["cosine"], "lw": 1}
        line = [losses[0][-1], end], [losses[1][-1], loss]
        axes.plot(*line, ls=":", alpha=0.5, **look)
        bar = axes.errorbar(end, loss, width, fmt="o", capsize=3, ms=4, **look)
        bar.lines[0].set(ms=8 if best else 4, mfc=look["color"] if best else "white")
        if best:
            bar.set_label(f"predicted ends, 90 %; advised: {length} steps")
    late = [v for s, v in zip(*losses, strict=True) if s >= losses[0][-1] / 4]
    low, high = min(plan.losses - plan.widths), max(late)
    axes.set_ylim(low - 0.1 * (high - low), high)
    axes.set_xlabel("step")
    axes.set_ylabel("validation loss (nats)")
    axes.legend(frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    figure.savefig(trunk / "plan.png", dpi=180)
    plt.close(figure)


def _pyplot():
    """Matplotlib without a screen; here, as most commands start sooner without it."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def _curve(lines: list[dict[str, Any]], name: str) -> tuple[list[int], list[float]]:
    points = [(line["step"], line[name]) for line in lines if name in line]
    return [step for step, _ in points], [value for _, value in points]
