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
        printed = re.sub(r" +$", "", capsys.readouterr().out, flags=re.MULTILINE)
        shown = re.search(r"^```\n(gradient check of gradient.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)[1]
        assert shown.replace("model.py:7", "README.md:6") in printed


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\((?!http)([^)#]+)\)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 130
