"""The comparisons of bench.choices.

The file of faces has scikit-image's lfw_subset: 200 pictures of 25 x 25 pixels, the first 100 faces.

    python -c "import numpy, skimage.data; x = skimage.data.lfw_subset(); y = numpy.arange(200) < 100; \\
               numpy.savez('faces.npz', x=x[..., None].astype('float32'), y=y.astype('int32'))"
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

from bench.choices import Choices, Comparison
from jaxbp import AveragePool, Chain, Conv, Dense, Flatten, GlobalAveragePool, ReLU, SigmaPi, Sigmoid
from jaxbp.config import Config, Run, load, replace_keys
from jaxbp.data import Characters, Csv, Embedded, Function, Mnist, Npz, Plane, Rows, Tones, WrongLabels
from jaxbp.losses import Penalty, SoftmaxCrossEntropy, SquaredError
from jaxbp.models import CNN, MLP, RNN
from jaxbp.optim import SGD, Adam, Cosine
from jaxbp.training.fold import Fold

CONFIGS = Path(__file__).parent.parent / "configs"
DIGITS = Config(
    data=Embedded("digits", scaling="min_max"),
    model=MLP(outputs=10, hidden=(32, 32), w_init="glorot_normal"),
    loss=SoftmaxCrossEntropy(),
    optimizer=Adam(learning_rate=1e-2),
    run=Run(epochs=30, batch_size=128, evaluate_every=30),
)
POINTS = Config(
    data=Plane("circles", noise=0.1),
    model=MLP(outputs=2, hidden=(16,), w_init="glorot_normal"),
    loss=SoftmaxCrossEntropy(),
    optimizer=Adam(learning_rate=1e-2),
    run=Run(epochs=50, batch_size=32, evaluate_every=50),
)
WINE = Config(
    data=Embedded("wine"),
    model=MLP(outputs=3, hidden=(16,), activation="tanh", w_init="glorot_normal"),
    loss=SoftmaxCrossEntropy(),
    optimizer=SGD(1.0),
    run=Run(epochs=50, batch_size=16),
)
CURVE = Config(
    data=Function("sine"),
    model=MLP(outputs=1, hidden=(8,), activation="sigmoid", w_init="normal", b_init="normal"),
    loss=SquaredError("half_sum"),
    optimizer=Adam(learning_rate=0.03, schedule=Cosine()),
    run=Run(epochs=3000, batch_size=None, evaluate_every=3000, steps_per_call=3000),
)
MNIST = Config(
    data=Mnist(),
    model=MLP(outputs=10, hidden=(128,)),
    loss=SoftmaxCrossEntropy(),
    optimizer=SGD(learning_rate=0.1, momentum=0.9),
    run=Run(epochs=10, batch_size=128, evaluate_every=10),
)
SIGMOIDS = {"model.activation": "sigmoid", "model.w_init": "glorot_normal"}
ACTIVATIONS = ["step", "identity", "sigmoid", "tanh", "softplus", "relu", "leakyrelu", "elu", "selu", "silu", "gelu"]
RATES = (1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0)


def values(key: str, choices: Sequence[Any], **shared: Any) -> Choices:
    """A choice for each value of a key; `shared` are further keys, with __ for their dots."""
    others = {name.replace("__", "."): value for name, value in shared.items()}
    return {choice: {key: choice, **others} for choice in choices}


def hidden(widths: Sequence[int], layers: int, **shared: Any) -> Choices:
    """A choice for each width of that many hidden layers."""
    nets = values("model.hidden", [(width,) * layers for width in widths], **shared)
    return dict(zip(widths, nets.values(), strict=True))


def deep(activation: str) -> Choices:
    """Nets of 1 to 16 hidden layers of 32 units."""
    return {layers: {"model.hidden": (32,) * layers, "model.activation": activation} for layers in (1, 2, 4, 8, 16)}


def without_activation(units: int) -> Choices:
    """A net of one hidden layer, the same without its activation, and the linear net."""
    return {
        "no hidden layer": {"model.hidden": ()},
        f"{units} units, no ReLU": {"model.hidden": (units,), "model.activation": "identity"},
        f"{units} units, ReLU": {"model.hidden": (units,)},
    }


GRID = [(a / 4, b / 4) for a, b in product(range(-4, 5), repeat=2)]
PRODUCTS = Config(
    data=Rows(x=tuple(GRID), y=tuple((a + b + 2 * a * b,) for a, b in GRID)),
    model=MLP(outputs=1),
    loss=SquaredError("mean"),
    optimizer=Adam(learning_rate=0.02),
    run=Run(epochs=2000, batch_size=None, evaluate_every=2000),
)
LENET_192 = Chain(
    *(Conv(6, (5, 5), padding="VALID", w_init="glorot_normal"), Sigmoid(), AveragePool((2, 2))),
    *(Conv(12, (5, 5), padding="VALID", w_init="glorot_normal"), Sigmoid(), AveragePool((2, 2))),
    Flatten(),
    Dense(10, w_init="glorot_normal"),
)
TONES = Chain(Conv(8, (9,)), ReLU(), Conv(8, (9,)), ReLU(), GlobalAveragePool(), Dense(4))
FACES = Config(
    data=Npz("faces.npz", test_fraction=0.25),
    model=MLP(outputs=2),
    loss=SoftmaxCrossEntropy(),
    optimizer=Adam(learning_rate=1e-3),
    run=Run(epochs=60, batch_size=25, evaluate_every=60),
    penalty=Penalty(l2=1e-3),
)
WHEAT = Config(
    data=Fold(Csv("wheat-seeds.csv", header=False, scaling="min_max", one_hot=True), index=0, folds=5),
    model=MLP(
        outputs=3, hidden=(5,), activation="sigmoid", output_activation="sigmoid", w_init="uniform", b_init="uniform"
    ),
    loss=SquaredError("half_sum"),
    optimizer=SGD(learning_rate=0.3),
    run=Run(epochs=500, batch_size=1, shuffle=False, evaluate_every=500),
)

COMPARISONS: dict[str, Comparison] = {
    "activations": Comparison(
        DIGITS,
        {
            f"{layers} hidden layers": values("model.activation", ACTIVATIONS, model__hidden=(32,) * layers)
            for layers in (2, 8)
        },
        "activation",
    ),
    "remove_relu": Comparison(
        DIGITS,
        {
            "circles": {
                name: {"data": POINTS.data, "model.outputs": 2, **changes}
                for name, changes in without_activation(32).items()
            },
            "digits": without_activation(32),
        },
        "net",
    ),
    "units": Comparison(
        CURVE,
        {
            "30 noisy examples": hidden(
                (1, 2, 4, 8, 16), 1, data=Function("sine", examples=530, noise=0.3, test_fraction=500 / 530)
            )
        },
        "hidden units",
        ("train_loss", "test_loss"),
        seeds=5,
        scales=("log", "log"),
    ),
    "depth": Comparison(DIGITS, {name: deep(name) for name in ("sigmoid", "relu")}, "hidden layers of 32"),
    "layers_and_units": Comparison(
        DIGITS,
        {
            f"{name}, {layers} hidden layers": hidden((4, 16, 64), layers, data=data, model__outputs=outputs)
            for name, data, outputs in (("digits", DIGITS.data, 10), ("moons", Plane("moons", noise=0.2), 2))
            for layers in (1, 3)
        },
        "units a layer",
        scales=("log", "linear"),
    ),
    "sigmoids": Comparison(
        CURVE,
        {
            name: hidden((1, 2, 4, 8, 16), 1, data=Function(name, examples=400, test_fraction=0.5))
            for name in ("sine", "step")
        },
        "sigmoids",
        ("test_loss",),
        seeds=5,
        scales=("log", "log"),
    ),
    "products": Comparison(
        PRODUCTS,
        {
            "x1 + x2 + 2 x1 x2": {
                "linear": {},
                "linear and a product": {"model": SigmaPi(1, ((0,), (1,), (0, 1)))},
                "16 units, no activation": {"model.hidden": (16,), "model.activation": "identity"},
                "4 tanh units": {"model.hidden": (4,), "model.activation": "tanh"},
                "16 tanh units": {"model.hidden": (16,), "model.activation": "tanh"},
            }
        },
        "model",
        ("test_loss",),
        scales=("linear", "log"),
    ),
    "uniform_weights": Comparison(
        DIGITS,
        {
            name: values(
                "model.w_init",
                ("uniform", "normal", "glorot_normal"),
                data=data,
                model__outputs=outputs,
                model__activation="sigmoid",
                model__hidden=(32, 32),
            )
            for name, data, outputs in (("moons: 2 inputs", Plane("moons"), 2), ("digits: 64 inputs", DIGITS.data, 10))
        },
        "weights at the start",
    ),
    "batches": Comparison(
        replace_keys(DIGITS, {"optimizer": SGD(1.0), "model.hidden": (32,), "run.epochs": 20, "run.evaluate_every": 1}),
        {
            f"{name} a step": values("optimizer.learning_rate", RATES[2:], run__batch_size=rows)
            for name, rows in (("all rows", None), ("32 rows", 32), ("1 row", 1))
        },
        "rate",
        ("test_loss",),
        seeds=2,
        by_epoch=True,
        scales=("log", "log"),
    ),
    "scaling": Comparison(
        WINE,
        {
            scaling: values("optimizer.learning_rate", (1e-5, 1e-4, *RATES), data__scaling=scaling)
            for scaling in ("none", "min_max", "standard")
        },
        "rate",
        ("test_loss",),
        by_epoch=True,
        scales=("linear", "log"),
    ),
    "characters": Comparison(
        load(CONFIGS / "characters.py"),
        {
            name: {
                pixels: {"data": Characters(pixels / 35, copies=50), "penalty": penalty, "run.evaluate_every": 300}
                for pixels in (0, 2, 4, 7, 10)
            }
            for name, penalty in (("no penalty", Penalty()), ("penalty 0.001", Penalty(l2=1e-3)))
        },
        "pixels of 35 flipped",
    ),
    "wrong_labels": Comparison(
        replace_keys(DIGITS, {"data": WrongLabels(DIGITS.data, 0.0)}),
        {
            name: values("data.share", (0.0, 0.1, 0.2, 0.4, 0.6), **changes)
            for name, changes in {
                "30 epochs": {},
                "3 epochs": {"run__epochs": 3, "run__evaluate_every": 3},
                "30 epochs, penalty 0.001": {"penalty": Penalty(l2=1e-3)},
            }.items()
        },
        "share of wrong labels",
        ("train_accuracy", "test_accuracy"),
    ),
    "tones": Comparison(
        replace_keys(DIGITS, {"data": Tones(), "run.batch_size": 32}),
        {
            name: values("data.noise", (0.5, 1.0, 2.0), model=model)
            for name, model in {
                "dense": MLP(outputs=4, hidden=(32,)),
                "convolutions": TONES,
                "GRU": RNN(outputs=4, hidden=(32,), cell="gru", output="last"),
            }.items()
        },
        "noise",
    ),
    "size": Comparison(
        DIGITS,
        {
            "digits, one epoch": hidden(
                (64, 512, 4096, 8192), 2, optimizer=SGD(0.1, momentum=0.9), run__epochs=1, run__evaluate_every=1
            )
        },
        "units in each of 2 hidden layers",
        seeds=1,
        scales=("log", "linear"),
    ),
    "mnist_layers": Comparison(
        MNIST,
        {
            "MNIST": {
                "784-10": {"model.hidden": (), **SIGMOIDS},
                "784-30-10, sigmoid": {"model.hidden": (30,), **SIGMOIDS},
                "784-128-10, sigmoid": SIGMOIDS,
                "784-128-10, no activation": {"model.activation": "identity"},
                "784-128-10, ReLU": {},
            }
        },
        "net",
        ("train_accuracy", "test_accuracy"),
        seeds=2,
        file="mnist",
    ),
    "lenet_192": Comparison(
        MNIST,
        {
            "6 and 12 maps": {
                "192 numbers": {
                    "data.image": True,
                    "model": LENET_192,
                    "optimizer": Adam(learning_rate=3e-3),
                    "run.epochs": 5,
                    "run.evaluate_every": 5,
                }
            }
        },
        "net",
        seeds=1,
        file="mnist",
    ),
    "wheat": Comparison(
        WHEAT, {"7-5-3": values("data.index", range(5))}, "fold", seeds=5, file="wheat", path="data.data.path"
    ),
    "faces": Comparison(
        FACES,
        {
            name: values("data.seed", range(3), **changes)
            for name, changes in {
                "no hidden layer": {},
                "32 units": {"model__hidden": (32,)},
                "convolutions": {"model": CNN(outputs=2, channels=(8, 16), hidden=(32,))},
            }.items()
        },
        "split",
        seeds=2,
        file="faces",
    ),
}
