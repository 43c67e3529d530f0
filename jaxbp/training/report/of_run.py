"""The report of one run, from the files in its folder: written when the run ends, with what it has at hand then."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jaxbp.files import overwrite
from jaxbp.training.report import page
from jaxbp.training.report.curves import as_text
from jaxbp.training.report.diagnosis import Finding, findings
from jaxbp.training.report.evidence import DataFacts, Evidence
from jaxbp.training.report.maps import health_parts, sentences
from jaxbp.training.report.page import Part, Section
from jaxbp.training.report.records import sessions

FILE = "report.html"
PICTURES = {  # that other commands leave in the folder
    "deltas.png": "The delta on its way back through time",
    "alignment.png": "The angle between the updates and the gradient",
    "slice_1d.png": "The loss along one direction",
    "slice_2d.png": "The loss around the weights, and the path to them",
    "boundary.png": "The decision boundary",
    "weight.png": "The loss against one weight",
}


def write_report(folder: Path, config: dict[str, Any], data: DataFacts | None) -> None:
    """Writes report.html of a run that ends: all but what needs predictions, which `jaxbp report` adds."""
    evidence = Evidence.of(folder, config, data)
    wrong = findings(evidence)
    curves = [Part(picture=picture_of(folder / "curves.png"))] if (folder / "curves.png").is_file() else []
    sections = [
        summary(evidence, wrong),
        Section("Curves", [*curves, sentences("loss", wrong), Part(table=last_rows(evidence))]),
        *of_health(folder, evidence, wrong),
        Section("Config and provenance", [Part("Config", table=config_table(config)), provenance_part(folder)]),
    ]
    overwrite(folder / FILE, page.page(f"Run {folder.name}", sections))


def summary(evidence: Evidence, wrong: list[Finding]) -> Section:
    """What is wrong with the run, in one place."""
    texts = []
    if not evidence.health:
        texts.append(
            "Nobody has looked at the health of its layers: --config.run.health_every=400 does, every 400 steps."
        )
    if evidence.data is None:
        texts.append("Nobody has looked at its data: jaxbp report does.")
    right = "" if wrong else "Nothing is wrong with this run, as far as the rules below can tell."
    part = Part(wrong=[finding.text for finding in wrong], right=right, texts=texts)
    return Section("What is wrong", [part], is_verdict=True)


def of_health(folder: Path, evidence: Evidence, wrong: list[Finding]) -> list[Section]:
    """The heat maps, what the rules of the data say, and the pictures that other commands have drawn."""
    sections = []
    if evidence.health:
        sections.append(Section("Health of the layers", list(health_parts(evidence, wrong))))
    if evidence.data is not None:
        sections.append(Section("Data", [sentences("data", wrong)]))
    pictures = [Part(title, picture_of(folder / name)) for name, title in PICTURES.items() if (folder / name).is_file()]
    return [*sections, Section("Pictures", pictures)] if pictures else sections


def picture_of(path: Path) -> str:
    """The address of a picture in a file."""
    return page.address(path.read_bytes())


def last_rows(evidence: Evidence) -> list[list[str]]:
    """The last and the best row of metrics, as a table."""
    rows = [{k: v for k, v in row.items() if isinstance(v, int | float)} for row in evidence.rows]
    if not rows:
        return []
    judged = next((n for n in ("validation_loss", "test_loss", "train_loss") if n in rows[-1]), "epoch")
    best = min(rows, key=lambda row: row.get(judged, float("inf")))
    head = ["", *(page.shortened(name).replace("_", " ") for name in rows[-1])]
    cells = lambda row: [as_text(row[k]) if isinstance(row.get(k), float) else str(row.get(k, "")) for k in rows[-1]]
    return [head, ["last", *cells(rows[-1])], [f"least {judged.replace('_', ' ')}", *cells(best)]]


def config_table(config: dict[str, Any]) -> list[list[str]]:
    """A row for every key."""
    return [["key", "value"], *([key, value] for key, value in page.keys_of(config).items())]


def provenance_part(folder: Path) -> Part:
    """A row for every key of the last session, and how many there were."""
    entries = sessions(folder)
    if entries is None:
        return Part("Provenance", texts=["provenance.json is missing or damaged."])
    rows = entries[-1].items()
    return Part("Provenance", texts=[f"{len(entries)} sessions; the last:"], table=[["key", "value"], *rows])
