"""What several runs show together: curves with the spread over seeds, final figures with intervals, differences."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from jaxbp.errors import InputError
from jaxbp.run import Run
from jaxbp.training.folder import RunFolder, differences
from jaxbp.training.identity import OLD
from jaxbp.training.report.curves import as_text, new_figure, scale
from jaxbp.training.report.evidence import Evidence
from jaxbp.training.report.page import Part, drawn, shortened
from jaxbp.training.report.records import BY_PATH, sessions

STYLES = {"train": ":", "validation": "--", "test": "-"}


def groups_of(configs: Sequence[dict[str, Any]]) -> list[list[int]]:
    """The numbers of the runs whose configs differ in the seed alone, group by group; no seed is in a group twice."""
    groups: dict[tuple[str, int], list[int]] = defaultdict(list)
    times: Counter[str] = Counter()
    for i, config in enumerate(configs):
        whole = json.dumps(config, sort_keys=True)
        without_seed = json.dumps(config | {"run": config["run"] | {"seed": None}}, sort_keys=True)
        groups[without_seed, times[whole]].append(i)
        times[whole] += 1
    return list(groups.values())


def check_distinct(folders: Sequence[RunFolder], configs: Sequence[dict[str, Any]]) -> None:
    """Raises InputError where two folders hold one run: the same config and seed, with the same name or rows."""
    for (a, config), (b, other) in combinations(zip(folders, configs, strict=True), 2):
        if config == other and (names_of(a) & names_of(b) or rows_of(a) == rows_of(b)):
            raise InputError(f"{a.path} and {b.path} are the same run, of one config and seed: name one of them")


def names_of(folder: RunFolder) -> set[str]:
    """The names that the run in a folder has had, as run.json tells them."""
    identity = folder.owner()
    return set(identity.runs if identity else ()) - {OLD}


def rows_of(folder: RunFolder) -> list[dict[str, Any]]:
    """The rows of metrics of the run in a folder."""
    return Evidence.of(folder.path, {}).rows


def has_ended(evidence: Evidence) -> bool:
    """Whether a run has made all its epochs, its patience is at an end, or its training loss is low enough."""
    if not evidence.rows:
        return False
    run = evidence.config["run"]
    losses = [row.get("validation_loss", np.inf) for row in evidence.rows]
    waited = len(losses) - 1 - int(np.argmin(losses))
    early = Run(run["epochs"], patience=run.get("patience"), stop_at_loss=run.get("stop_at_loss"))
    last = evidence.rows[-1]
    return last["epoch"] >= run["epochs"] or early.is_over(last["train_loss"], waited)


def compared(evidences: Sequence[Evidence], group: Sequence[int]) -> list[int]:
    """The runs of a group whose final figures are averaged: those that have ended, else those that went farthest."""
    ended = [i for i in group if has_ended(evidences[i])]
    epochs = {i: evidences[i].rows[-1]["epoch"] for i in group if evidences[i].rows}
    return ended or [i for i in epochs if epochs[i] == max(epochs.values())]


def gaps(names: Sequence[str], evidences: Sequence[Evidence], groups: Sequence[Sequence[int]]) -> Iterator[str]:
    """A sentence for each run that has no rows, or whose final figures are in no mean of its group."""
    for group in groups:
        final = compared(evidences, group)
        for i in group:
            if not evidences[i].rows:
                yield f"{shortened(names[i])} has no rows of metrics: it is in no curve and no figure."
            elif i not in final:
                yield (
                    f"{shortened(names[i])} has not ended: its last row is of epoch {evidences[i].rows[-1]['epoch']}. "
                    "The curves of its group average the epochs that all have; the final figures leave it out."
                )
        if len({evidences[i].rows[-1]["epoch"] for i in final}) > 1:
            yield (
                f"The runs of {label_of(names, final)} have ended at different epochs. Their curves average the epochs "
                "that all have."
            )


def label_of(names: Sequence[str], group: Sequence[int]) -> str:
    """The name of a run, or how many seeds a group has beside its first."""
    first = shortened(names[group[0]])[:60]
    return first if len(group) == 1 else f"{first} and {len(group) - 1} further seeds"


def shared_curve(evidences: Sequence[Evidence], name: str) -> tuple[list[int], np.ndarray]:
    """(the epochs at which all runs have a figure, [runs, epochs] of it)."""
    runs = [{row["epoch"]: row[name] for row in evidence.rows if name in row} for evidence in evidences]
    epochs = sorted(set.intersection(*map(set, runs))) if runs else []
    return epochs, np.array([[run[epoch] for epoch in epochs] for run in runs])


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
            with_rows = [i for i in group if evidences[i].rows]
            for part, style in STYLES.items():
                epochs, table = shared_curve([evidences[i] for i in with_rows], f"{part}_{kind}")
                if not epochs:
                    continue
                label = f"{part} {label_of(names, with_rows)}" if len(groups) > 1 else part
                axes.plot(epochs, table.mean(0), style, color=f"C{colour % 10}", label=label)
                axes.fill_between(epochs, table.min(0), table.max(0), color=f"C{colour % 10}", alpha=0.2)
        axes.set(xlabel="epoch", title=kind, yscale=scale(kind, axes))
        axes.grid(alpha=0.3)
        for text in axes.legend(fontsize=8).get_texts() if axes.lines else ():
            text.set_parse_math(False)
    has_band = any(sum(bool(evidences[i].rows) for i in group) > 1 for group in groups)
    texts = ["The mean over seeds, in a band from the least to the largest."] if has_band else []
    return Part("Curves", drawn(figure), texts=[*texts, *gaps(names, evidences, groups)])


def figures_part(names: Sequence[str], evidences: Sequence[Evidence], groups: Sequence[Sequence[int]]) -> Part:
    """The last row of every group: over seeds the mean with its 95 % interval by Student's t."""
    from scipy.stats import t

    lasts = [evidence.rows[-1] for evidence in evidences if evidence.rows]
    keys = list(dict.fromkeys(key for row in lasts for key in row if key not in BY_PATH))
    table = [["run", *(key.replace("_", " ") for key in keys)]]
    for group in groups:
        final = compared(evidences, group)
        cells = []
        for key in keys:
            last = [evidences[i].rows[-1][key] for i in final if key in evidences[i].rows[-1]]
            whole = key in ("epoch", "step")
            text = (f"{np.mean(last):g}" if whole else as_text(float(np.mean(last)))) if last else ""
            if len(last) > 1 and not whole:
                half = t.ppf(0.975, len(last) - 1) * np.std(last, ddof=1) / np.sqrt(len(last))
                text += f" ± {as_text(float(half))}"
            cells.append(text)
        table.append([label_of(names, final or group), *cells])
    has_interval = any(len(compared(evidences, group)) > 1 for group in groups)
    texts = ["Over seeds the mean and its 95 % interval (Student's t)."] if has_interval else []
    return Part("Final figures", texts=texts, table=table)


def differences_part(title: str, names: Sequence[str], mappings: Sequence[dict[str, Any] | None]) -> Part:
    """What every further run has other than the first. None: it cannot be read."""
    unread = [
        f"That of {shortened(n)} is missing or damaged." for n, m in zip(names, mappings, strict=True) if m is None
    ]
    table = [["run", f"other than {shortened(names[0])}"]]
    for name, mapping in zip(names[1:], mappings[1:], strict=True):
        if mapping is not None and mappings[0] is not None:
            changes = "; ".join(differences(mappings[0], mapping).values())
            table.append([shortened(name), shortened(changes or "nothing")])
    return Part(title, texts=unread, table=table)


def provenance_of(folder: Path) -> dict[str, str] | None:
    """The last session of a run, without its date and command; None where the file is missing or damaged."""
    entries = sessions(folder)
    if entries is None:
        return None
    return {key: text for key, text in entries[-1].items() if key not in ("date", "command")}
