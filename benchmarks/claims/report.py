"""The table and the pictures in benchmarks/README.md, from the finished runs alone."""

import importlib
import json
import pkgutil
from pathlib import Path

from .engine import Lab, NotMeasuredError
from .pictures import draw
from .settings import Scale
from .study import CLAIMS, Claim, Finding, Study

HERE = Path(__file__).parents[1]
PUBLISHED = HERE / "results" / "published_124M.json"
SEEDS = (5, 4, 3)  # fewer decide nothing, and are not shown

for module in pkgutil.iter_modules([str(Path(__file__).parent)]):
    if module.name[0] == "c" and module.name[1:3].isdigit():
        importlib.import_module(f"{__package__}.{module.name}")


def results(scale: Scale) -> Path:
    return HERE / "results" / f"claims_{scale.name}.jsonl"


def find(lab: Lab, claim: Claim, seeds=SEEDS) -> tuple[int, Finding] | None:
    """What the runs say of a claim, with as many seeds as have them all."""
    for count in seeds:
        try:
            return count, claim.test(Study(lab, range(count)))
        except NotMeasuredError:
            pass
    return None


def table(lab: Lab) -> str:
    """A row for each claim: what our runs and the published ones say of it."""
    published = json.loads(PUBLISHED.read_text())
    size = lab.scale.parameters
    rows = [f"| # | claim | {size}, here | 124M, published |", "|--:|---|---|---|"]
    for number, claim in sorted(CLAIMS.items()):
        measured, other = find(lab, claim), published.get(str(number))
        ours = "not measured yet"
        if measured:
            seeds, found = measured
            verdicts = {text: said.value for text, said in found.parts.items()}
            ours = _cell(verdicts, found.figures)
            ours += f". *{seeds} seeds; peaks (settings tried): {found.tuning}*"
        theirs = _cell(**other) if other else "no such runs"
        cells = [str(number), f"{claim.text} ({claim.source})", ours, theirs]
        rows += ["| " + " | ".join(c.replace("|", "\\|") for c in cells) + " |"]
    return "\n".join(rows)


def _cell(parts: dict[str, str], figures: list[str]) -> str:
    said = "; ".join(f"{text}: **{verdict}**" for text, verdict in parts.items())
    return ". ".join(part for part in (said, "; ".join(figures)) if part)


def write(lab: Lab, readme: Path) -> None:
    """Replaces the table of this scale in the README, and draws the pictures."""
    pictures = []
    for number, claim in sorted(CLAIMS.items()):
        measured = find(lab, claim)
        if measured and measured[1].draw:
            name = f"{claim.name}_{lab.scale.name}.png"
            title = f"{number}. {measured[1].found} ({lab.scale.parameters})"
            draw(title, measured[1].draw, HERE / "pictures" / name)
            pictures.append(f"![{number}. {measured[1].found}](pictures/{name})")
    marks = [f"<!-- claims {lab.scale.name}: {end} -->" for end in ("begin", "end")]
    text = readme.read_text()
    before, _, rest = text.partition(marks[0])
    _, _, after = rest.partition(marks[1])
    content = "\n".join([table(lab), "", *pictures])
    readme.write_text(f"{before}{marks[0]}\n\n{content}\n\n{marks[1]}{after}")
