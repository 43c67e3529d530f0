"""README and docs: every Python block runs, what README prints is what is printed, and README stays short."""

import re

import pytest

from tests.support.paths import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if BLOCK.search(page.read_text())], ids=lambda page: page.stem)
def test_every_python_block_runs(page, capsys):
    """The blocks of a page are one program, as a reader would paste them."""
    names = {"__name__": page.stem}
    for block in BLOCK.findall(page.read_text()):
        exec(compile(block, page, "exec"), names)
    if page.stem == "README":
        shown = re.search(r"^```\n(gradient check of gradient.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)[1]
        assert words(shown.replace("model.py", "README.md")) in words(capsys.readouterr().out)


def words(report):
    """The report without the errors, whose digits depend on the compiler, and without white space."""
    return " ".join(re.sub(r"\d\.\de[+-]\d\d", "E", report).split())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\((?!http)([^)#]+)\)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 130
