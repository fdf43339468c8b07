"""The tables and the pictures, from the finished runs alone."""

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
MISSING = "not measured yet"

# Rows of "Which method when": what you know, what to take, the claim and the beginning
# of its figures that say how good it is, and when not.
CHOICES = [
    (
        "the end, and it will not move",
        "`wsd_schedule(...)` with `shapes.linear` over 60 % of the run or more",
        2,
        ("WSD 60 % linear − cosine to zero", "linear to zero − cosine to zero"),
        "you may train on",
    ),
    (
        "no end yet, or several budgets",
        "a stable phase and `scale_by_cooldown`, 20 to 40 % of the run",
        2,
        ("WSD 20 % − cosine", "WSD 40 % − cosine"),
        "one can only afford 5 %",
    ),
    (
        "a model is wanted at any time",
        "`params_power_ema` beside the stable phase",
        7,
        ("power-EMA", "best average −"),
        "after a cooldown",
    ),
    (
        "nothing",
        "`schedule_free_adamw(..., b1=growing_b1_schedule())`",
        9,
        ("growing b1 − WSD 40 % at 2400", "growing b1 − linear to zero at 2400"),
        "BatchNorm cannot be estimated again",
    ),
    (
        "new data keeps coming",
        "`infinite_schedule`, ended by `cooldown_schedule`",
        13,
        ("infinite − re-warmed",),
        "there is one data set",
    ),
]

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


Found = dict[int, tuple[int, Finding] | None]


def find_all(lab: Lab) -> Found:
    return {number: find(lab, CLAIMS[number]) for number in sorted(CLAIMS)}


def page(scale: Scale, found: Found) -> str:
    """The verdicts of all claims as a table, and a card for each claim."""
    published = json.loads(PUBLISHED.read_text())
    head = ["#", "claim", f"{scale.parameters}, here", "124M, published"]
    rows, cards = [], []
    for number, measured in found.items():
        claim, other = CLAIMS[number], published.get(str(number))
        ours = {k: v.value for k, v in measured[1].parts.items()} if measured else {}
        theirs = other["parts"] if other else {}
        verdicts = [
            "; ".join(f"{text}: **{said}**" for text, said in parts.items())
            for parts in (ours, theirs)
        ]
        sides = [verdicts[0] or MISSING, verdicts[1] or "no such runs"]
        rows += [[str(number), claim.text, *sides]]
        cards += [f"### Claim {number}: {claim.text}", f"*{claim.source}.*"]
        cards += [claim.trust] * bool(claim.trust)
        if measured and measured[1].draw:
            cards += [
                f"![{_title(scale, claim, measured[1])}]({_picture(scale, claim)})"
            ]
        cards += ["<details><summary>Figures and settings</summary>"]
        if measured:
            seeds, finding = measured
            cards += [_bullets(f"{head[2]}, {seeds} seeds", finding.figures)]
            cards += [finding.tuning] * bool(finding.sides)
        if other:
            cards += [_bullets(head[3], other["figures"])]
        cards += ["</details>"]
    return "\n\n".join([_markdown(head, rows), *cards])


def choices(scale: Scale, found: Found) -> str:
    """Which method when: a row for each situation, with what it gained."""
    published = json.loads(PUBLISHED.read_text())
    rows = []
    for known, take, number, begins, unless in CHOICES:
        measured = found[number]
        ours = _figures(measured[1].figures, begins) if measured else MISSING
        figures = published.get(str(number), {"figures": []})["figures"]
        theirs = _figures(figures, begins) or "no such runs"
        rows += [[known, take, theirs, f"{ours} (claim {number})", unless]]
    head = ["what you know", "take", "124M, published", f"{scale.parameters}, here"]
    return _markdown([*head, "not when"], rows)


def show(claim: Claim, measured: tuple[int, Finding] | None) -> None:
    print(f"\n{claim.number}. {claim.text}")
    if measured:
        seeds, finding = measured
        lines = [finding.found, *finding.figures, finding.tuning, f"seeds: {seeds}"]
        print("\n".join(f"   {line}" for line in lines))


def write(lab: Lab) -> None:
    """Replaces the tables in the pages, and draws the pictures."""
    scale, found = lab.scale, find_all(lab)
    for number, measured in found.items():
        claim, on_axes = CLAIMS[number], measured[1].draw if measured else None
        if measured and on_axes:
            path = HERE / _picture(scale, claim)
            draw(_title(scale, claim, measured[1]), on_axes, path)
    _replace(HERE / "README.md", f"claims {scale.name}", page(scale, found))
    if scale.name == "cpu":
        for name in ("README.md", "docs/choose.md"):
            _replace(HERE.parent / name, "choices", choices(scale, found))


def _picture(scale: Scale, claim: Claim) -> str:
    return f"pictures/{claim.name}_{scale.name}.png"


def _title(scale: Scale, claim: Claim, finding: Finding) -> str:
    return f"{claim.number}. {finding.found} ({scale.parameters})"


def marked(page: Path, name: str) -> str:
    """What stands between the two marks of a page."""
    _, _, rest = page.read_text().partition(f"<!-- {name}: begin -->\n\n")
    return rest.partition(f"\n\n<!-- {name}: end -->")[0]


def _replace(page: Path, name: str, content: str) -> None:
    text = page.read_text()
    before, begin, rest = text.partition(f"<!-- {name}: begin -->")
    _, end, after = rest.partition(f"<!-- {name}: end -->")
    page.write_text(f"{before}{begin}\n\n{content}\n\n{end}{after}")


def _bullets(title: str, figures: list[str]) -> str:
    return "\n".join([f"{title}:", "", *(f"- {figure}" for figure in figures)])


def _figures(figures: list[str], begins: tuple[str, ...]) -> str:
    return "; ".join(figure for figure in figures if figure.startswith(begins))


def _markdown(head: list[str], rows: list[list[str]]) -> str:
    cells = [head, ["---"] * len(head), *rows]
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in cells]
    return "\n".join(f"| {' | '.join(row)} |" for row in escaped)
