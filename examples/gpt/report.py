"""The table and the picture of `compare`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from optax_wsd.laws import Cooldowns

from .progress import read_metrics, say

LOOKS = {  # colour and label of a schedule
    "stable": ("#444444", "trunk (stable)"),
    "wsd": ("#0b6e99", "cooldowns from the trunk"),
    "cosine": ("#d9822b", "cosine to zero"),
    "schedule_free": ("#4a9c5d", "schedule-free"),
}


def write_table(path: Path, report: dict[str, Any]) -> None:
    """Prints budgets side by side, and writes them with all else as Markdown."""
    runs, data, paid = report["runs"], report["data"], report["steps_paid"]
    cosines = {n["budget_steps"]: n for n in runs if n["schedule"] == "cosine"}
    rows, others = [], []
    for run in runs:
        budget, loss = run["budget_steps"], run["val_loss"]
        if run["schedule"] == "wsd":
            cosine, foreseen = cosines[budget], run["predicted"]
            predicted = "{:.4f} ± {:.4f}".format(*foreseen) if foreseen else "none"
            rows.append(
                f"| {budget} | {loss:.4f} | {cosine['val_loss']:.4f} "
                f"| {loss - cosine['val_loss']:+.4f} | {run['steps_trained']} "
                f"| {cosine['steps_trained']} | {predicted} |"
            )
        elif run["schedule"] != "cosine":
            bpb = run.get("val_bpb", float("nan"))
            others.append(f"| {run['name']} | {budget} | {loss:.4f} | {bpb:.4f} |")
    rows[:0] = [
        "| budget (steps) | branch | cosine | difference | steps: branch | cosine "
        "| predicted |",
        "|---:|---:|---:|---:|---:|---:|---:|",
    ]
    say("\n".join(rows))
    size = (data["train"] + data["held_out"]) / 1e6
    text = f"""
Losses are nats per {data["unit"][:-1]} on what is held out from {data["name"]}
({size:.1f}M {data["unit"]}). The trunk and its branches took {paid["branched"]} steps,
the cosine runs {paid["cosine"]}: {report["compute_ratio"]:.2f} of their compute.
Predicted is what a law says of trunk and first branch; ± is half its 90 % interval.

| no cooldown | steps | loss | bits per byte |
|:---|---:|---:|---:|
"""
    others += ["\n![loss and learning rate against steps](report.png)\n"]
    text = "\n".join(rows) + "\n" + text + "\n".join(others)
    path.write_text(text, errors="surrogateescape")


def draw(folder: Path, schedules: dict[str, str]) -> None:
    """Draws the validation loss of all runs against steps, the rates below."""
    from matplotlib.figure import Figure  # most commands start sooner without it

    figure = Figure(figsize=(5.4, 4.8), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    ends = []
    for name, schedule in schedules.items():
        color, label = LOOKS[schedule]
        look = {"color": color, "lw": 1.6 if schedule == "cosine" else 2}
        losses = _losses(folder / name, folder / "trunk")
        ends.append(losses[-1][1])
        _plot(top, losses, **look, label=label)
        _plot(bottom, _curve(folder / name, "lr"), **look)
        if schedule in ("wsd", "cosine"):
            top.plot(*losses[-1], "o", color=color, ms=5)
        if schedule == "stable":
            averaged = _curve(folder / name, "val_loss_ema")
            _plot(top, averaged, **look, ls=":", label="trunk, averaged weights")
    top.set(ylim=(min(ends) - 0.05, min(ends) + 0.9), ylabel="validation loss (nats)")
    bottom.set(ylabel="learning rate", xlabel="step")
    bottom.set_ylim(bottom=0)
    _finish(figure, top, folder / "report.png")


def draw_plan(trunk: Path, plan: Cooldowns, branches: Sequence[Path]) -> None:
    """Draws a trunk, its finished branches, and where cooldowns from its end would be.

    Each prediction has its own line from the trunk and a bar, its 90 % interval: they
    are alternatives, not one run.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.4, 3.4), layout="constrained")
    axes = figure.subplots()
    losses = _curve(trunk, "val_loss")
    (color, label), (now, loss_now) = LOOKS["stable"], losses[-1]
    for branch in branches:
        look = {"color": LOOKS["wsd"][0], "lw": 1.6, "label": "cooldowns made"}
        _plot(axes, _losses(branch, trunk), **look)
    _plot(axes, losses, color=color, lw=2, label=label)
    for length, end, loss, width in zip(*plan[:3], plan.widths, strict=True):
        best = length == plan.best
        look = {"color": LOOKS["cosine"][0], "lw": 1}
        axes.plot([now, end], [loss_now, loss], ls=":", alpha=0.5, **look)
        bar = axes.errorbar(end, loss, width, fmt="o", capsize=3, ms=4, **look)
        bar.lines[0].set(ms=8 if best else 4, mfc=look["color"] if best else "white")
        if best:
            bar.set_label(f"predicted ends, 90 %; recommended: {length} steps")
    low = min(plan.losses - plan.widths)
    high = max(loss for step, loss in losses if step >= now / 4)
    axes.set(xlabel="step", ylabel="validation loss (nats)")
    axes.set_ylim(low - 0.1 * (high - low), high)
    _finish(figure, axes, trunk / "plan.png")


def _finish(figure, axes, path: Path) -> None:
    handles, labels = axes.get_legend_handles_labels()
    once = dict(zip(labels, handles, strict=True))
    axes.legend(once.values(), once.keys(), frameon=False, fontsize=8)
    for each in figure.axes:
        each.spines[["top", "right"]].set_visible(False)
        each.grid(alpha=0.25)
    figure.savefig(path, dpi=180)


def _plot(axes, curve: list[tuple[int, float]], **look) -> None:
    axes.plot(*zip(*curve, strict=True), **look)


def _curve(run: Path, name: str) -> list[tuple[int, float]]:
    """A number of a run's metrics, with the steps that have it."""
    return [(line["step"], line[name]) for line in read_metrics(run) if name in line]


def _losses(run: Path, trunk: Path) -> list[tuple[int, float]]:
    """The losses of a run, which for a branch begin on its trunk's."""
    start = _curve(run, "lr")[0][0] - 1
    before = [point for point in _curve(trunk, "val_loss") if point[0] == start]
    return before + _curve(run, "val_loss")
