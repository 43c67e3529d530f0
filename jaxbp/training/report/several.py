"""What several runs show together: curves with the spread over seeds, final figures with intervals, differences."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxbp.training.folder import differences
from jaxbp.training.report.curves import as_text, new_figure
from jaxbp.training.report.evidence import Evidence
from jaxbp.training.report.page import Part, drawn, shortened

STYLES = {"train": ":", "validation": "--", "test": "-"}


def groups_of(configs: Sequence[dict[str, Any]]) -> list[list[int]]:
    """The numbers of the runs whose configs differ in nothing but the seed, group by group."""
    groups: dict[str, list[int]] = defaultdict(list)
    for i, config in enumerate(configs):
        groups[json.dumps(config | {"run": config["run"] | {"seed": None}}, sort_keys=True)].append(i)
    return list(groups.values())


def label_of(names: Sequence[str], group: Sequence[int]) -> str:
    """The name of a run, or how many seeds a group has beside its first."""
    first = shortened(names[group[0]])[:60]
    return first if len(group) == 1 else f"{first} and {len(group) - 1} further seeds"


def curves_part(names: Sequence[str], evidences: Sequence[Evidence], groups: Sequence[Sequence[int]]) -> Part:
    """Losses and accuracies: a line for each group, the mean over its seeds, in a band from least to largest."""
    kinds = [
        kind for kind in ("loss", "accuracy") if any(f"train_{kind}" in row for e in evidences for row in e.rows[:1])
    ]
    if not kinds:
        return Part("Curves", texts=["No run has been evaluated yet."])
    figure = new_figure(5.5 * len(kinds), 4)
    for kind, axes in zip(kinds, figure.subplots(1, len(kinds), squeeze=False)[0], strict=True):
        for colour, group in enumerate(groups):
            for part, style in STYLES.items():
                runs = [[row for row in evidences[i].rows if f"{part}_{kind}" in row] for i in group]
                length = min(map(len, runs))
                if not length:
                    continue
                table = np.array([[row[f"{part}_{kind}"] for row in rows[:length]] for rows in runs])
                epochs = [row["epoch"] for row in runs[0][:length]]
                label = f"{part} {label_of(names, group)}" if len(groups) > 1 else part
                axes.plot(epochs, table.mean(0), style, color=f"C{colour % 10}", label=label)
                axes.fill_between(epochs, table.min(0), table.max(0), color=f"C{colour % 10}", alpha=0.2)
        axes.set(xlabel="epoch", title=kind, yscale="log" if kind == "loss" else "linear")
        axes.grid(alpha=0.3)
        for text in axes.legend(fontsize=8).get_texts():
            text.set_parse_math(False)
    has_band = any(len(group) > 1 for group in groups)
    texts = ["The mean over seeds, in a band from the least to the largest."] if has_band else []
    return Part("Curves", drawn(figure), texts=texts)


def figures_part(names: Sequence[str], evidences: Sequence[Evidence], groups: Sequence[Sequence[int]]) -> Part:
    """The last row of every group: over seeds the mean with its 95 % interval by Student's t."""
    from scipy.stats import t

    keys = [k for k, v in (evidences[0].rows or [{}])[-1].items() if isinstance(v, int | float)]
    table = [["run", *(key.replace("_", " ") for key in keys)]]
    for group in groups:
        cells = []
        for key in keys:
            last = [evidences[i].rows[-1][key] for i in group if evidences[i].rows and key in evidences[i].rows[-1]]
            whole = key in ("epoch", "step")
            text = (f"{np.mean(last):g}" if whole else as_text(float(np.mean(last)))) if last else ""
            if len(last) > 1 and not whole:
                half = t.ppf(0.975, len(last) - 1) * np.std(last, ddof=1) / np.sqrt(len(last))
                text += f" ± {as_text(float(half))}"
            cells.append(text)
        table.append([label_of(names, group), *cells])
    has_interval = any(len(group) > 1 for group in groups)
    texts = ["Over seeds the mean and its 95 % interval (Student's t)."] if has_interval else []
    return Part("Final figures", texts=texts, table=table)


def differences_part(title: str, names: Sequence[str], records: Sequence[dict[str, Any]]) -> Part:
    """What every further run has other than the first."""
    table = [["run", f"other than {shortened(names[0])}"]]
    for name, record in zip(names[1:], records[1:], strict=True):
        changes = "; ".join(differences(records[0], record).values())
        table.append([shortened(name), shortened(changes or "nothing")])
    return Part(title, table=table)


def provenance_of(folder: Path) -> dict[str, Any]:
    """The last session of a run, without its date and command; {} where the file is missing or damaged."""
    try:
        last = json.loads((folder / "provenance.json").read_text())[-1]
        return {key: value for key, value in last.items() if key not in ("date", "command")}
    except (OSError, ValueError, LookupError, AttributeError, RecursionError):
        return {}
