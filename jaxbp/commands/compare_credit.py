"""Compares credit rules on MNIST:

    jaxbp compare_credit --path=FOLDER --workdir=DIR [--net=lenet] [--rules=FeedbackAlignment,ErrorSplit] [--seeds=5]

Data, model, optimizer and length are the same for all, config.credit is another. Each rule's learning rate is the one
with the lowest error on 10,000 training images that are held out, in short runs from the first seed. A rate at which
a run ends in nan counts as 100 %. The 10,000 test images are looked at once, after the last epoch of a run. What is
cut off goes on where it was when the command is given again. After every rule the folder has the figures of this and
earlier rules in NET.json and NET.md, and a picture of them in NET.png.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean, pstdev
from typing import Annotated, Literal, NamedTuple

from jaxbp.commands import cli
from jaxbp.config import Config, Run
from jaxbp.credit import (
    Backpropagation,
    Credit,
    DirectFeedbackAlignment,
    EquilibriumPropagation,
    ErrorSplit,
    FeedbackAlignment,
    ForwardForward,
    KolenPollack,
    PredictiveCoding,
    Relaxer,
    SignSymmetric,
    WeightMirror,
)
from jaxbp.data import Mnist, Splits
from jaxbp.errors import unknown
from jaxbp.files import write_json, write_whole
from jaxbp.losses import SoftmaxCrossEntropy
from jaxbp.machine import machine
from jaxbp.models import FeedbackMLP, LayerModel, ModelConfig
from jaxbp.optim import SGD, Cosine
from jaxbp.training.loop import NotFinite, train
from jaxbp.training.report.curves import Row, new_figure, read_metrics, save_figure
from jaxbp.typed import Count, NotEmpty, Positive, Typed, Words


class Setup(NamedTuple):
    """What is the same for all rules of a net."""

    model: ModelConfig
    rates: tuple[float, ...]  # that are tried
    tries: int  # epochs of the runs that try a rate
    epochs: int  # of the others


HE = "w_init='he_normal'"
DENSE = f"Chain(Flatten(), Dense(500, {HE}), BatchNorm(), ReLU(), Dropout(0.3), Dense(10, {HE}))"
LENET = (
    f"Chain(Conv(20, (5, 5), {HE}), MaxPool((2, 2)), BatchNorm(), ReLU(), "
    f"Conv(50, (5, 5), {HE}), MaxPool((2, 2)), BatchNorm(), ReLU(), "
    f"Flatten(), Dense(500, {HE}), BatchNorm(), ReLU(), Dense(10, {HE}))"
)
STEADY_NET = FeedbackMLP(
    outputs=10, hidden=(500,), feedback=0.1, activation="tanh", relaxer=Relaxer(rate=0.5, tolerance=1e-3)
)
NETS = {
    "dense": Setup(LayerModel(DENSE), (0.05, 0.1, 0.2), tries=3, epochs=15),
    "lenet": Setup(LayerModel(LENET), (0.05, 0.1), tries=1, epochs=3),
    "feedback": Setup(STEADY_NET, (0.1, 0.2, 0.4), tries=2, epochs=10),
}
RULES: dict[str, Credit] = {
    "Backpropagation": Backpropagation(),
    "FeedbackAlignment": FeedbackAlignment(),
    "SignSymmetric.uniform": SignSymmetric("uniform"),
    "SignSymmetric.batch": SignSymmetric("batch"),
    "SignSymmetric.fixed": SignSymmetric("fixed"),
    "KolenPollack": KolenPollack(),
    "WeightMirror": WeightMirror(),
    "DirectFeedbackAlignment": DirectFeedbackAlignment(),
    "ErrorSplit.weights": ErrorSplit("weights"),
    "ErrorSplit.transpose": ErrorSplit("transpose"),
    "PredictiveCoding": PredictiveCoding(),
    "ForwardForward": ForwardForward(threshold=2.0),
    "EquilibriumPropagation": EquilibriumPropagation(),
}
GROWTH = 3.0  # of the upper weights in a run: backward weights that keep their size start with that of the end
FITTED: dict[str, Credit] = {  # to these nets
    "FeedbackAlignment": FeedbackAlignment(GROWTH),
    "SignSymmetric.uniform": SignSymmetric("uniform", GROWTH),
    "SignSymmetric.batch": SignSymmetric("batch", GROWTH),
    "SignSymmetric.fixed": SignSymmetric("fixed", GROWTH),
    "PredictiveCoding": PredictiveCoding(relaxer=Relaxer(rate=0.05, tolerance=1e-4)),
}
HEAD = """| rule | test error, % | seeds | epochs | cosine to the gradient | processor seconds a run | learning rate |
|---|---|---|---|---|---|---|"""
STEADY = ("Backpropagation", "EquilibriumPropagation")  # the rules of the net that settles


@dataclass(frozen=True)
class Options(Typed):
    """The options of the command.

    Args:
        workdir: the folder of all the runs
        path: folder with MNIST's four files
        net: dense: 784-500-10; lenet: Caffe's LeNet, both with batch normalization; feedback: 784-500-10 that settles
        rules: names of rules, separated by commas; None: all that are defined for the net
        rates: learning rates that are tried, separated by commas; None: those of the net's set-up
        tries: epochs of the runs that try a rate; None: as in the set-up
        seeds: runs with the best rate
        epochs: of each of these; None: as in the set-up
    """

    workdir: str
    path: str
    net: Literal["dense", "lenet", "feedback"] = "dense"
    rules: Words | None = None
    rates: Annotated[tuple[Positive, ...], NotEmpty()] | None = None
    tries: Count | None = None
    seeds: Count = 5
    epochs: Count | None = None


def main(words: Sequence[str]) -> int:
    """Compares what the words say, and returns the exit status."""
    options = cli.read_all(Options, words)
    rules = options.rules or defined(options.net)
    setup = NETS[options.net]
    setup = setup._replace(rates=options.rates or setup.rates)
    setup = setup._replace(tries=options.tries or setup.tries, epochs=options.epochs or setup.epochs)
    for name in rules:
        if name not in defined(options.net):
            raise unknown(f"credit rule of the net {options.net}:", name, defined(options.net))
    splits = configured(options, rules[0], 0.1, 0, 1).load_data()
    path = Path(options.workdir) / f"{options.net}.json"
    rows = {row["rule"]: row for row in json.loads(path.read_text())["rows"]} if path.is_file() else {}
    for name in rules:
        rows[name] = compare(options, name, setup, splits)
        write([rows[name] for name in RULES if name in rows], path)
        print(markdown([rows[name]]), flush=True)
    return 0


def defined(net: str) -> list[str]:
    """The names of the rules that are defined for a net."""
    return [name for name in RULES if (name in STEADY) == (net == "feedback") or name == "Backpropagation"]


def configured(options: Options, name: str, rate: float, seed: int, epochs: int) -> Config:
    """The config of one run."""
    return Config(
        data=Mnist(path=options.path, image=options.net == "lenet", validation_fraction=1 / 6),
        model=NETS[options.net].model,
        loss=SoftmaxCrossEntropy(),
        optimizer=SGD(learning_rate=rate, momentum=0.9, schedule=Cosine()),
        run=Run(epochs=epochs, batch_size=128, seed=seed, evaluate_every=epochs),
        credit=FITTED.get(name, RULES[name]),
    )


def compare(options: Options, name: str, setup: Setup, splits: Splits) -> Row:
    """The row of one rule: errors in percent over the seeds, and how far its last direction is from the gradient."""
    folder = Path(options.workdir) / options.net / name

    def result(rate: float, seed: int, epochs: int) -> tuple[Row, float]:
        """-> (the last metrics of a run, the seconds of all processors, those before it was cut off too)."""
        path = folder / f"{epochs}_epochs" / str(rate) / str(seed)
        cost = path / "processor_seconds.json"
        before = json.loads(cost.read_text()) if cost.is_file() else 0.0
        metrics = path / "metrics.jsonl"
        if metrics.is_file() and read_metrics(metrics):  # the run has ended: its last epoch alone is evaluated
            return train(configured(options, name, rate, seed, epochs), path, splits=splits), before
        start = time.process_time()
        try:
            row = train(configured(options, name, rate, seed, epochs), path, splits=splits)
        finally:
            seconds = before + time.process_time() - start
            if path.is_dir():
                write_json(cost, seconds)
        return row, seconds

    def tried(rate: float) -> float:
        try:
            return error(result(rate, 0, setup.tries)[0], "validation")
        except NotFinite:  # too high a rate for a steady state
            return 100.0

    held_out = {rate: tried(rate) for rate in setup.rates}
    rate = min(held_out, key=lambda rate: held_out[rate])
    ends, seconds = zip(*(result(rate, seed, setup.epochs) for seed in range(options.seeds)), strict=True)
    cosines = [figures[0] for row in ends for path, figures in row.get("alignment", {}).items() if path.endswith("/w")]
    return {
        "rule": name,
        "rate": rate,
        "held_out": held_out,
        "validation": [error(row, "validation") for row in ends],
        "test": [error(row, "test") for row in ends],
        "cosine": fmean(cosines) if cosines else 1.0,
        "processor_seconds": fmean(seconds),
        "epochs": setup.epochs,
    }


def error(row: Row, part: str) -> float:
    """Of a row of metrics, in percent."""
    return 100 * (1 - row[f"{part}_accuracy"])


def write(rows: Sequence[Row], path: Path) -> None:
    """The rows as JSON, with the machine, and beside it as a table and as a picture."""
    write_json(path, {"date": datetime.now(UTC).date().isoformat(), "machine": machine(), "rows": rows})
    write_whole(path.with_suffix(".md"), f"{HEAD}\n{markdown(rows)}\n".encode())
    figure = new_figure(7, 1 + 0.3 * len(rows))
    axes = figure.subplots()
    names = [row["rule"] for row in rows]
    axes.errorbar([fmean(row["test"]) for row in rows], names, xerr=[pstdev(row["test"]) for row in rows], fmt="o")
    for row in rows:
        axes.plot(row["test"], [row["rule"]] * len(row["test"]), "k.", alpha=0.4)
    axes.set(xlabel="test error, %")
    axes.invert_yaxis()
    axes.grid(alpha=0.3)
    save_figure(figure, path.with_suffix(".png"))


def markdown(rows: Sequence[Row]) -> str:
    """Lines of a table: the test error with its standard deviation over the seeds, the cosine, the cost, the rate."""
    return "\n".join(
        f"| `{row['rule']}` | {fmean(row['test']):.2f} +- {pstdev(row['test']):.2f} | {len(row['test'])} | "
        f"{row['epochs']} | {row['cosine']:.2f} | {row['processor_seconds']:.0f} | {row['rate']:g} |"
        for row in rows
    )
