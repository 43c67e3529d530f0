"""What a search shows: its results as a table and a picture, the best first."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from jaxbp.training.report.curves import Row, as_text, new_figure, save_figure

UNSEEN = "chosen by its test part, which is no unseen part any more: data.validation_fraction sets one aside"


class Finished(NamedTuple):
    """A run that has ended: its keys, its seed, what was not finite (None: nothing), and its metrics."""

    keys: dict[str, str]
    seed: int
    failed: str | None
    metrics: Row | None


@dataclass(frozen=True)
class Result:
    """The runs of one combination of values.

    figures: mean and standard deviation (NAME_mean, NAME_stdev) of the metrics of all seeds; {} where a run failed.
    values: the metric that judges, of each seed that ended well.
    """

    keys: dict[str, str]
    runs: int
    failures: tuple[str, ...]
    figures: dict[str, float]
    values: tuple[float, ...]

    @property
    def name(self) -> str:
        """'learning_rate=0.01 batch_size=32'."""
        return " ".join(f"{key.rpartition('.')[2]}={text}" for key, text in self.keys.items()) or "the config"


def mean_and_deviation(rows: Sequence[Row], prefixes: tuple[str, ...]) -> dict[str, float]:
    """NAME_mean and, of several rows, NAME_stdev of the metrics whose names begin with one of the prefixes."""
    figures = {}
    for name in rows[0]:
        if name.startswith(prefixes):
            values = [row[name] for row in rows]
            figures[f"{name}_mean"] = statistics.mean(values)
            if len(values) > 1:
                figures[f"{name}_stdev"] = statistics.stdev(values)
    return figures


def judged(runs: Sequence[Finished]) -> str:
    """The metric that says which combination is best: of the validation part where there is one, else of the test."""
    names = next((run.metrics for run in runs if run.metrics), {"test_loss": 0.0})
    order = ("validation_accuracy", "validation_loss", "test_accuracy", "test_loss")
    return next(name for name in order if name in names)


def results(runs: Sequence[Finished], kind: str) -> list[Result]:
    """One result for each combination, the best first, those with a failed run last."""
    by_keys: dict[tuple, list[Finished]] = {}
    for run in runs:
        by_keys.setdefault(tuple(run.keys.items()), []).append(run)
    every = []
    for group in by_keys.values():
        rows = [run.metrics for run in group if not run.failed and run.metrics]
        failures = tuple(f"seed {run.seed} {run.failed}" for run in group if run.failed)
        figures = {} if failures else mean_and_deviation(rows, ("train", "validation", "test"))
        every.append(Result(group[0].keys, len(group), failures, figures, tuple(row[kind] for row in rows)))
    sign = -1 if kind.endswith("accuracy") else 1
    loss = kind.replace("accuracy", "loss")

    def rank(result: Result) -> tuple[float, ...]:
        figures = result.figures
        return (0, sign * figures[f"{kind}_mean"], figures[f"{loss}_mean"]) if figures else (1, 0, 0)

    return sorted(every, key=rank)


def table(ranking: Sequence[Result], kind: str) -> str:
    """The results as lines, with means and standard deviations over the seeds."""
    keys = list(ranking[0].keys)
    names = dict.fromkeys(name.removesuffix("_mean") for r in ranking for name in r.figures if name.endswith("_mean"))
    lines = [[*keys, "seeds", *(name.replace("_", " ") for name in names), "failed"]]
    for result in ranking:
        figures = [spread(result.figures, name) for name in names]
        lines.append([*result.keys.values(), str(result.runs), *figures, "; ".join(result.failures)])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = ["  ".join(word.ljust(width) for word, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    return "\n".join([*text, *([UNSEEN] if kind.startswith("test") else [])])


def spread(figures: dict[str, float], name: str) -> str:
    """'0.9812 +- 0.0021': the mean of a metric, and its standard deviation over several seeds."""
    if f"{name}_mean" not in figures:
        return "-"
    mean = as_text(figures[f"{name}_mean"])
    return f"{mean} +- {as_text(figures[f'{name}_stdev'])}" if f"{name}_stdev" in figures else mean


def draw_results(ranking: Sequence[Result], kind: str, path: Path) -> None:
    """A PNG with a point for each run that ended well, and the mean of each combination, the best on top."""
    figure = new_figure(8, 1 + 0.35 * len(ranking))
    axes = figure.subplots()
    for place, result in enumerate(ranking):
        axes.plot(result.values, [place] * len(result.values), "o", color="C0", alpha=0.5)
        if result.figures:
            axes.plot(result.figures[f"{kind}_mean"], place, "|", color="black", markersize=14)
        if result.failures:
            axes.annotate(f"{len(result.failures)} not finite", (0.01, place), xycoords=("axes fraction", "data"))
    axes.set_yticks(range(len(ranking)), [result.name for result in ranking])
    axes.set_ylim(len(ranking) - 0.5, -0.5)
    axes.set_xlabel(f"{kind.replace('_', ' ')}, a point for each seed, | their mean")
    axes.grid(alpha=0.3)
    save_figure(figure, path)
