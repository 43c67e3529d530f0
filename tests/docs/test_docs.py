"""README and docs: every Python block and command runs, what README prints is what is printed, README stays short."""

import re
import shlex

import numpy as np
import pytest

from jaxbp.commands.__main__ import main
from tests.support.paths import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COMMANDS = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NOT_HERE = re.compile(r"FILE|FOLDER|ANY_TEXT|runs/charlm")  # a file of the reader's, or a run of 25 minutes


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if BLOCK.search(page.read_text())], ids=lambda page: page.stem)
def test_every_python_block_runs(page, capsys):
    """The blocks of a page are one program, as a reader would paste them."""
    needs = {"safetensors": "save_(parameters|gpt2)", "flax": "from flax", "equinox": "import equinox"}
    for library, pattern in needs.items():
        if re.search(pattern, page.read_text()):
            pytest.importorskip(library)
    names = {"__name__": page.stem}
    for block in BLOCK.findall(page.read_text()):
        exec(compile(block, page, "exec"), names)
    if page.stem == "README":
        shown = re.search(r"^```\n(gradient check of gradient.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)[1]
        assert words(shown.replace("model.py", "README.md")) in words(capsys.readouterr().out)


def commands(page):
    """The commands of a page that end within a minute."""
    lines = [line for block in COMMANDS.findall(page.read_text()) for line in block.splitlines()]
    return [line for line in lines if line.startswith("jaxbp ") and not NOT_HERE.search(line)]


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)], ids=lambda page: page.stem)
def test_every_command_runs(page, tmp_path, monkeypatch):
    """In the order of the page, in a folder with the configs and with the tables that the page speaks of."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    draw = np.random.default_rng(0)
    if page.stem == "tables":
        (tmp_path / "sonar.py").write_text(BLOCK.findall(page.read_text())[0])
        write_rows(tmp_path / "sonar.csv", draw.uniform(size=(208, 60)), draw.choice(["M", "R"], 208))
        write_rows(tmp_path / "new.csv", draw.uniform(size=(3, 60)))
    else:
        write_rows(tmp_path / "new.csv", draw.uniform(1, 5, (3, 4)))
    for command in commands(page):
        assert main(shlex.split(command, comments=True)[1:]) == 0, command
    if any(command.startswith("jaxbp predict") for command in commands(page)):
        assert len((tmp_path / "predictions.csv").read_text().splitlines()) == 4


def write_rows(path, numbers, labels=None):
    """A CSV file without a header, with the labels, if there are any, in the last column."""
    rows = [[f"{number:.4f}" for number in row] for row in numbers]
    if labels is not None:
        rows = [[*row, label] for row, label in zip(rows, labels, strict=True)]
    path.write_text("".join(",".join(row) + "\n" for row in rows))


def words(report):
    """The report without the errors, whose digits depend on the compiler, and without white space."""
    return " ".join(re.sub(r"\d\.\de[+-]\d\d", "E", report).split())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\((?!http)([^)#]+)\)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 130
