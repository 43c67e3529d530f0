"""Compares credit rules on MNIST:

    jaxbp compare_credit --path=FOLDER --workdir=DIR [--net=lenet] [--rules=FeedbackAlignment,ErrorSplit] [--seeds=5]

Data, model, optimizer and length are the same for all, config.credit is another. Each rule's learning rate is the one
with the lowest error on 10,000 training images that are held out, from the first seed. The 10,000 test images are
looked at once, after the last epoch of a run. What is cut off goes on where it was when the command is given again.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any, Literal

from jaxbp.commands import cli
from jaxbp.config import Config, Run
from jaxbp.credit import (
    Backpropagation,
    Credit,
    DirectFeedbackAlignment,
    EquilibriumPropagation,
    ErrorSplit,
    FeedbackAlignment,
    KolenPollack,
    PredictiveCoding,
    SignSymmetric,
    WeightMirror,
)
from jaxbp.data import Mnist
from jaxbp.errors import unknown
from jaxbp.files import write_json
from jaxbp.losses import SoftmaxCrossEntropy
from jaxbp.machine import machine
from jaxbp.models import CNN, MLP, FeedbackMLP, ModelConfig
from jaxbp.optim import SGD, Cosine
from jaxbp.training.loop import train
from jaxbp.typed import Count, Positive, Typed, parse

NETS: dict[str, ModelConfig] = {
    "dense": MLP(outputs=10, hidden=(500,), activation="tanh", w_init="glorot_normal"),
    "lenet": CNN(
        outputs=10, channels=(6, 16), padding=(2, 0), hidden=(120, 84), activation="tanh", w_init="glorot_normal"
    ),
    "feedback": FeedbackMLP(outputs=10, hidden=(500,)),
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
    "EquilibriumPropagation": EquilibriumPropagation(),
}
STEADY = ("Backpropagation", "EquilibriumPropagation")  # the rules of the net that settles


@dataclass(frozen=True)
class Options(Typed):
    """The options of the command.

    Args:
        workdir: the folder of all the runs
        path: folder with MNIST's four files
        net: dense: 784-500-10; lenet: LeNet-5; feedback: 784-500-10 that settles, for EquilibriumPropagation
        rules: names of rules, separated by commas; None: all that are defined for the net
        rates: learning rates that are tried with the first seed, separated by commas
        seeds: runs with the best rate
        epochs: of every run
        json: also write machine and rows to this file
    """

    workdir: str
    path: str
    net: Literal["dense", "lenet", "feedback"] = "dense"
    rules: str | None = None
    rates: str = "0.01,0.03,0.1"
    seeds: Count = 5
    epochs: Count = 20
    json: cli.OutputFile | None = None


def main(words: Sequence[str]) -> int:
    """Compares what the words say, and returns the exit status."""
    options = cli.read_all(Options, words)
    defined = [name for name in RULES if (name in STEADY) == (options.net == "feedback") or name == "Backpropagation"]
    rules = defined if options.rules is None else options.rules.split(",")
    rates = parse("--rates", options.rates, tuple[Positive, ...])
    for name in rules:
        if name not in defined:
            raise unknown(f"credit rule of the net {options.net}:", name, defined)
    rows = []
    for name in rules:
        rows.append(compare(options, name, rates))
        print(show(rows[-1]), flush=True)
    if options.json:
        write_json(Path(options.json), {"machine": machine(), "rows": rows})
    return 0


def configured(options: Options, name: str, rate: float, seed: int) -> Config:
    """The config of one run."""
    return Config(
        data=Mnist(path=options.path, image=options.net == "lenet", validation_fraction=1 / 6),
        model=NETS[options.net],
        loss=SoftmaxCrossEntropy(),
        optimizer=SGD(learning_rate=rate, momentum=0.9, schedule=Cosine()),
        run=Run(epochs=options.epochs, batch_size=64, seed=seed, evaluate_every=options.epochs),
        credit=RULES[name],
    )


def compare(options: Options, name: str, rates: Sequence[float]) -> dict[str, Any]:
    """The row of one rule: errors in percent over the seeds, and how far its last direction is from the gradient."""

    def result(rate: float, seed: int) -> dict[str, Any]:
        folder = Path(options.workdir) / options.net / name / f"{rate:g}" / str(seed)
        row = train(configured(options, name, rate, seed), folder)
        return row | json.loads((folder / "timing.jsonl").read_text().splitlines()[-1])

    held_out = {rate: error(result(rate, 0), "validation") for rate in rates}
    rate = min(held_out, key=lambda rate: held_out[rate])
    ends = [result(rate, seed) for seed in range(options.seeds)]
    test = [error(row, "test") for row in ends]
    cosines = [figures[0] for row in ends for path, figures in row.get("alignment", {}).items() if path.endswith("/w")]
    return {
        "rule": name,
        "rate": rate,
        "held_out": held_out,
        "test": test,
        "cosine": fmean(cosines) if cosines else 1.0,
        "steps_per_second": fmean(row["steps_per_second"] for row in ends),
    }


def error(row: dict[str, Any], part: str) -> float:
    """Of a row of metrics, in percent."""
    return 100 * (1 - row[f"{part}_accuracy"])


def show(row: dict[str, Any]) -> str:
    """A row as a line: the test error with its standard deviation over the seeds, the rate, the mean cosine."""
    test = row["test"]
    return (
        f"{row['rule']:24s} test error {fmean(test):.2f} % +- {pstdev(test):.2f} ({len(test)} seeds), "
        f"learning rate {row['rate']:g}, cosine {row['cosine']:.2f}, {row['steps_per_second']:.0f} steps/s"
    )
