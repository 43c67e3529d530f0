"""The whole report, of one run or of several beside each other: files, data and predictions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from jaxbp.errors import InputError
from jaxbp.training.fit import check_data
from jaxbp.training.folder import RunFolder
from jaxbp.training.report import page, predictions, several
from jaxbp.training.report.diagnosis import Finding, findings
from jaxbp.training.report.evidence import DataFacts, Evidence
from jaxbp.training.report.maps import sentences
from jaxbp.training.report.of_run import config_table, of_health, provenance_part, summary
from jaxbp.training.report.page import Part, Section
from jaxbp.training.report.weights import weight_parts
from jaxbp.training.run import Trained, load


def whole_report(folders: Sequence[RunFolder], code: bool, data: bool) -> tuple[bytes, list[tuple[str, str]]]:
    """-> (the file, (name of the run, sentence) of all that is wrong).

    Raises InputError for what is no run, and where two folders hold one run.
    """
    names = [str(folder.path) for folder in folders]
    configs = [folder.stored() for folder in folders]
    several.check_distinct(folders, configs)
    evidences = []
    of_runs: list[list[Section]] = []
    wrong: list[tuple[str, str]] = []
    for folder, config in zip(folders, configs, strict=True):
        evidence, sections, own = report_of(folder, config, code, data)
        evidences.append(evidence)
        prefix = f"{folder.path.name}: " if len(folders) > 1 else ""
        of_runs.append([replace(section, title=page.shortened(prefix + section.title)) for section in sections])
        wrong += [(folder.path.name, finding.text) for finding in own]
    groups = several.groups_of(configs)
    together = [several.curves_part(names, evidences, groups), several.figures_part(names, evidences, groups)]
    if len(folders) > 1:
        provenances = [several.provenance_of(folder.path) for folder in folders]
        together.append(several.differences_part("Configs", names, configs))
        together.append(several.differences_part("Provenance", names, provenances))
    title = f"Run {folders[0].path.name}" if len(folders) == 1 else f"{len(folders)} runs"
    first, *others = (sections[0] for sections in of_runs)
    rest = [section for sections in of_runs for section in sections[1:]]
    return page.page(title, [first, *others, Section("Curves and figures", together), *rest]), wrong


def report_of(
    folder: RunFolder, config: dict[str, Any], code: bool, data: bool
) -> tuple[Evidence, list[Section], list[Finding]]:
    """(evidence, sections, what is wrong) of one run. A run that has no checkpoint has no predictions."""
    path = folder.path
    evidence = Evidence.of(path, config)
    tested: list[Part] = []
    if data:
        resolved = folder.config(code)
        splits = resolved.load_data()
        run = resolved.run
        batch = run.batch_size or len(splits.train)
        evidence = replace(evidence, data=DataFacts.of(splits, batch, run.seed, run.shuffle))
        trained = trained_model(folder, code)
        if isinstance(trained, Trained):
            check_data(trained, splits)
            parts = predictions.parts_of(trained, splits)
            if splits.classes:
                scores = {name: predictions.sure_errors(trained, part) for name, part in parts.items()}
                evidence = replace(evidence, scores=scores)
            tested = predictions.of_test(trained, parts["test"]) if parts else []
            tested += weight_parts(trained, splits.test.x)
        else:
            tested = [Part(texts=[trained])]
    wrong = findings(evidence)
    sections = [
        summary(evidence, wrong),
        Section("Loss", [sentences("loss", wrong)]),
        *of_health(path, evidence, wrong),
        *([Section("Test part and weights", tested)] if tested else []),
        Section("Config and provenance", [Part("Config", table=config_table(config)), provenance_part(path)]),
    ]
    return evidence, sections, wrong


def trained_model(folder: RunFolder, code: bool) -> Trained | str:
    """The model of a run, or why there is none."""
    try:
        return load(folder.path, code)
    except InputError as error:
        return f"No predictions: {error}"
