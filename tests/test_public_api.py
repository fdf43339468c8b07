"""What is public is documented: in its docstring, in the Reference, in the README."""

import inspect
import re
from pathlib import Path

import pytest

import optax_wsd
from optax_wsd import laws, shapes

ROOT = Path(__file__).parent.parent
PUBLIC = {
    f"{module.__name__}.{name}": getattr(module, name)
    for module in (optax_wsd, shapes, laws)
    for name in module.__all__
}
FUNCTIONS = {name: f for name, f in PUBLIC.items() if inspect.isfunction(f)}
FUNCTIONS["optax_wsd.laws.LossLaw.predict"] = laws.LossLaw.predict
# A shape is a formula of p; the docstring of its module says what p is.
PLAIN_SHAPES = {
    name
    for name, f in FUNCTIONS.items()
    if f.__module__ == "optax_wsd.shapes"
    and list(inspect.signature(f).parameters) == ["p"]
}


def sections(function):
    """The sections of a docstring by heading, the text before them under ''."""
    parts = re.split(r"^(\w+):\n", inspect.getdoc(function) or "", flags=re.M)
    return {"": parts[0]} | dict(zip(parts[1::2], parts[2::2], strict=True))


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_docstring_is_complete(name):
    found = sections(FUNCTIONS[name])
    assert len(found[""].splitlines()[0]) < 80
    assert ">>> " in found["Example"]
    if name not in PLAIN_SHAPES:
        assert found["Returns"].strip()
        assert "ValueError" in found["Raises"]
    if inspect.isfunction(PUBLIC.get(name)):
        assert re.search(r"arXiv:\d{4}\.\d{5}|\w+/\w+#\d+", found["References"])


@pytest.mark.parametrize("name", sorted(FUNCTIONS.keys() - PLAIN_SHAPES))
def test_every_argument_is_documented_in_order(name):
    documented = re.findall(
        r"^    (\w[\w, ]*):", sections(FUNCTIONS[name])["Args"], re.M
    )
    documented = ", ".join(documented).split(", ")
    arguments = [
        a for a in inspect.signature(FUNCTIONS[name]).parameters if a != "self"
    ]
    assert documented == arguments


@pytest.mark.parametrize("module", [optax_wsd, shapes, laws], ids=lambda m: m.__name__)
def test_all_names_what_the_module_itself_defines(module):
    assert list(module.__all__) == sorted(module.__all__)
    own = {
        name
        for name, value in vars(module).items()
        if getattr(value, "__module__", None) == module.__name__
        and not name.startswith("_")
    }
    internal = {"check_shape", "multiplier"} if module is shapes else set()
    assert own - internal <= set(module.__all__)


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_every_name_is_in_the_reference(name):
    pages = (ROOT / "docs/reference").glob("*.md")
    text = "\n".join(page.read_text() for page in pages)
    short = re.escape(name.removeprefix("optax_wsd."))
    assert re.search(rf"^.. auto\w+:: (optax_wsd\.)?{short}(\(\))?$", text, re.M)


@pytest.mark.parametrize("name", sorted(PUBLIC.keys() & FUNCTIONS.keys()))
def test_every_function_is_in_the_readme(name):
    short = name.removeprefix("optax_wsd.").removeprefix("shapes.")
    assert f"`{short}`" in (ROOT / "README.md").read_text()
