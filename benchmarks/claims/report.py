"""The table in benchmarks/README.md and the pictures beside it."""

import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt  # noqa: E402

from .claims import CLAIMS, Claim  # noqa: E402
from .engine import NotMeasuredError  # noqa: E402
from .study import Finding, Study  # noqa: E402

HERE = Path(__file__).parents[1]


def find(study: Study, claim: Claim) -> Finding | None:
    """What the runs say of a claim, or None where some are missing for every seed."""
    try:
        return claim.test(study)
    except NotMeasuredError:
        return None


def write(study: Study, readme: Path) -> None:
    """Replaces the table of this scale in the README, and draws the pictures."""
    rows = [
        "| # | claim | source | here | seeds | verdict |",
        "|--:|---|---|---|--:|---|",
    ]
    pictures = []
    for number in sorted(CLAIMS):
        claim = CLAIMS[number]
        finding = find(study, claim)
        cells = [str(number), claim.text, claim.source]
        if finding is None:
            cells += ["", "", "not measured"]
        else:
            cells += [finding.ours, str(study.answered), f"**{finding.verdict}**"]
            if finding.draw:
                name = f"{claim.name}_{study.scale.name}.png"
                draw(claim, finding.draw, HERE / "pictures" / name)
                pictures.append(f"![{number}. {claim.text}](pictures/{name})")
        rows.append(
            "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
        )
    table = "\n".join([*rows, "", *pictures])
    marks = [f"<!-- claims {study.scale.name}: {end} -->" for end in ("begin", "end")]
    text = readme.read_text()
    before, _, rest = text.partition(marks[0])
    _, _, after = rest.partition(marks[1])
    readme.write_text(f"{before}{marks[0]}\n\n{table}\n\n{marks[1]}{after}")


def draw(claim: Claim, on_axes: Callable[[Any], None], path: Path) -> None:
    """One picture, on white, legible at the width of a phone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    style: dict[Any, Any] = {
        "font.size": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.alpha": 0.25,
        "lines.markersize": 4,
    }
    with plt.rc_context(style):
        figure, axes = plt.subplots(layout="constrained")
        on_axes(axes)
        title = f"{claim.number}. {claim.text}".replace(" %", "\N{NO-BREAK SPACE}%")
        title = textwrap.fill(title, 58)
        figure.suptitle(title, x=0.02, ha="left", fontsize=10)
        handles, labels = axes.get_legend_handles_labels()
        figure.legend(
            handles, labels, loc="outside lower center", ncols=2, frameon=False
        )
        figure.set_size_inches(4.8, 3.4 + 0.11 * len(labels))
        figure.savefig(path, dpi=200, facecolor="white")
        plt.close(figure)
