"""The loss as a surface, and paths on it, as a PNG that the report of a run shows too:

    jaxbp surface bowl                                     gradient descent on a linear neuron at four rates
    jaxbp surface perceptron --config=FILE                 the perceptron's line, correction by correction
    jaxbp surface weight --run=DIR --weight=00_dense/w/0/1 the loss against one weight
    jaxbp surface line --run=DIR                           the loss along one filter-normalised direction
    jaxbp surface plane --run=DIR                          the loss around the weights, with the way to them
    jaxbp surface boundary --run=DIR                       the classes that a net sees in the plane, over training
    jaxbp surface compare --config=FILE --key=model.activation --values=relu,tanh

`plane` and `boundary` make the run again in memory, for its way. `compare` trains the same config once for each value.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxbp.analysis import surfaces
from jaxbp.commands import cli
from jaxbp.config import Config, override
from jaxbp.core import Context, PyTree, dot, path_name
from jaxbp.data import Plane, Splits
from jaxbp.errors import InputError
from jaxbp.layers.recurrent import with_carry
from jaxbp.programs import keep_programs
from jaxbp.training.evaluate import make_prediction, predicted_class
from jaxbp.training.report import surfaces as pictures
from jaxbp.training.report.curves import save_figure
from jaxbp.training.retrace import Retrace
from jaxbp.training.run import load
from jaxbp.typed import Count, Positive, Range, Typed

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KINDS = Literal["bowl", "perceptron", "weight", "line", "plane", "boundary", "compare"]
NAMES = {"line": "slice_1d.png", "plane": "slice_2d.png"}
ROWS = 1000  # of the training part, for the loss of a slice
PASSES = 1000  # of the perceptron over the data, where no line parts the classes
PARTED = Plane("blobs", examples=100, noise=0.6)  # by a line, only just
EXPERIMENT = "xor"  # where no config is named, of compare, and of perceptron with a key of the config


@dataclass(frozen=True)
class Options(Typed):
    """The options of the command.

    Args:
        kind: which picture
        run: the run folder, of weight, line, plane and boundary
        config: the experiment, of perceptron and compare; None: two classes that a line parts, and xor
        out: the PNG; None: KIND.png, in the run folder where there is one
        reach: how far a slice goes: in lengths of the weights (line), in the weight's own units (weight)
        points: places on each axis of a slice
        frames: moments of the run, or corrections of the perceptron, that are shown
        weight: path and index of a weight, such as 00_dense/w/0/1; None: the first one of the first matrix
        key: the key that is changed, such as model.activation
        values: what it becomes, with commas between
        seed: of random directions and of the bowl's data
        code: run the code that the run has kept, where its config needs classes of your own
    """

    kind: KINDS
    run: str | None = None
    config: str | None = None
    out: cli.OutputFile | None = None
    reach: Positive = 1.0
    points: Annotated[int, Range(3, 501)] = 41
    frames: Annotated[int, Range(3, 200)] = 12
    weight: str | None = None
    key: str = "model.activation"
    values: str = "relu,tanh,sigmoid,gelu"
    seed: Count | Literal[0] = 0
    code: bool = False


def main(words: Sequence[str]) -> int:
    """Draws what the words ask for, and returns the exit status."""
    options, overrides = cli.read(Options, words, EXPERIMENT)
    of_run = options.kind in ("weight", "line", "plane", "boundary")
    if of_run and options.run is None:
        raise InputError(f"{options.kind} needs --run=DIR, a run folder")
    if overrides and options.kind not in ("perceptron", "compare"):
        raise InputError(f"{overrides[0]} cannot change here: only perceptron and compare read a config")
    name = NAMES.get(options.kind, f"{options.kind}.png")
    path = Path(options.out) if options.out else (Path(str(options.run)) / name if of_run else Path(name))
    save_figure(DRAWN[options.kind](options, overrides), path)
    print(path)
    return 0


def bowl(options: Options, _: Sequence[str]) -> Figure:
    """Two inputs of different spread, so that the bowl is long."""
    rng = np.random.default_rng(options.seed)
    x = rng.normal(size=(100, 2)) * np.array([1.5, 0.6])
    return pictures.bowl_figure(surfaces.Bowl.of(x, x @ np.array([1.0, -0.5])), np.array([-1.0, 1.5]), 30)


def perceptron(options: Options, overrides: Sequence[str]) -> Figure:
    splits = (configured(options, overrides).data if options.config or overrides else PARTED).load()
    x, classes = plane_data(splits)
    path = surfaces.perceptron(x, classes, PASSES)
    print(f"{len(path) - 1} corrections; w1, w2, b = {', '.join(f'{w:.4g}' for w in path[-1])}")
    sides, places = plane_places(x, options.points)
    stops = np.unique(np.rint(1 + np.linspace(0, 1, options.frames) ** 2 * (len(path) - 2)).astype(int))
    above = lambda i, x: x @ path[i, :2] + path[i, 2]
    scores = lambda i: np.stack([-above(i, places), above(i, places)], -1)
    right = lambda i: float(np.mean((above(i, x) > 0) == classes))
    moments = {f"after correction {i}": pictures.Moment(scores(i), right(i)) for i in stops}
    return pictures.boundary_figure(x, classes, sides, moments, "The line of a perceptron, step by step")


def weight(options: Options, _: Sequence[str]) -> Figure:
    params, loss_of = loss_of_run(options)
    name = options.weight or first_weight(params)
    path, index = split_weight(name)
    direction = surfaces.one_weight(params, path, index)
    here = float(dot(params, direction))
    places = np.linspace(-options.reach, options.reach, options.points)
    losses = surfaces.loss_slice(loss_of, params, [direction], [places])
    return pictures.line_figure(here + places, losses, name, here)


def line(options: Options, _: Sequence[str]) -> Figure:
    params, loss_of = loss_of_run(options)
    direction = surfaces.filter_normalized(jax.random.key(options.seed), params)
    places = np.linspace(-options.reach, options.reach, options.points)
    losses = surfaces.loss_slice(loss_of, params, [direction], [places])
    return pictures.line_figure(places, losses, "along a random direction, in lengths of the filters", 0.0)


def plane(options: Options, _: Sequence[str]) -> Figure:
    params, loss_of = loss_of_run(options)
    run = load(str(options.run), options.code)
    way = Retrace.of(run.config, run.config.load_data()).weights(options.frames, early=True)[1]
    seen = surfaces.path_plane([*(weights["params"] for weights in way[:-1]), params])
    low, high = pictures.limits(seen.places)
    random = [surfaces.filter_normalized(key, params) for key in jax.random.split(jax.random.key(options.seed))]

    def slice_of(directions: Sequence[PyTree], low: np.ndarray, high: np.ndarray) -> pictures.Slice:
        sides = [np.linspace(a, b, options.points) for a, b in zip(low, high, strict=True)]
        return pictures.Slice(sides, surfaces.loss_slice(loss_of, params, directions, sides))

    reach = np.full(2, options.reach)
    return pictures.plane_figure(slice_of(seen.directions, low, high), seen, slice_of(random, -reach, reach))


def boundary(options: Options, _: Sequence[str]) -> Figure:
    run = load(str(options.run), options.code)
    splits = run.config.load_data()
    x, classes = plane_data(splits)
    sides, places = plane_places(x, options.points)
    predict = make_prediction(run.model)
    steps, way = Retrace.of(run.config, splits).weights(options.frames, early=True)
    moments = {}
    for step, weights in zip(steps, way, strict=True):
        y = predict(weights["params"], weights["model"], np.concatenate([places.reshape(-1, 2), x]))
        threshold = run.config.loss.threshold
        right = float(np.mean(predicted_class(y[-len(x) :], threshold) == classes))
        scores = np.concatenate([threshold - y, y - threshold], -1) if y.shape[-1] == 1 else y
        moments[f"step {step}"] = pictures.Moment(scores[: -len(x)].reshape(*places.shape[:2], -1), right)
    return pictures.boundary_figure(x, classes, sides, moments)


def plane_places(x: np.ndarray, points: int) -> tuple[list[np.ndarray], np.ndarray]:
    """(sides, places [A, B, 2]) of the frame around points x [N, 2]."""
    sides = [np.linspace(a, b, 3 * points) for a, b in zip(*pictures.limits(x), strict=True)]
    return sides, np.stack(np.meshgrid(*sides, indexing="ij"), -1).astype(np.float32)


def compare(options: Options, overrides: Sequence[str]) -> Figure:
    config = configured(options, overrides)
    values = list(filter(None, options.values.split(",")))
    if not values:
        raise InputError("--values must name at least one value")
    configs = {value: override(config, [f"--config.{options.key}={value}"]) for value in values}
    curves = {}
    for value, changed in configs.items():
        curves[value] = Retrace.of(changed, changed.load_data()).losses()
        print(
            f"{options.key}={value}: loss {curves[value][0]:.4g} at first, {np.mean(curves[value][-10:]):.4g} at last"
        )
    return pictures.comparison_figure(curves, f"{Path(options.config or 'xor').stem} by {options.key}")


DRAWN: dict[str, Callable[[Options, Sequence[str]], Figure]] = {
    "bowl": bowl,
    "perceptron": perceptron,
    "weight": weight,
    "line": line,
    "plane": plane,
    "boundary": boundary,
    "compare": compare,
}


def configured(options: Options, overrides: Sequence[str]) -> Config:
    """The config that the options name, with its overrides."""
    config = cli.override(cli.load(options.config or EXPERIMENT), overrides, options)
    keep_programs(config)
    return config


def plane_data(splits: Splits) -> tuple[np.ndarray, np.ndarray]:
    """The training points [N, 2] and their classes [N]. Raises InputError for other data."""
    train = splits.train
    if splits.classes is None or train.x.ndim != 2 or train.x.shape[1] != 2:
        raise InputError(f"the data must be points in the plane with classes, got rows of shape {train.x.shape[1:]}")
    return train.x, (train.y.argmax(-1) if train.y.ndim > 1 and train.y.shape[-1] > 1 else train.y.reshape(-1) > 0.5)


def loss_of_run(options: Options) -> tuple[PyTree, Callable[[PyTree], jax.Array]]:
    """(weights, params -> mean loss in evaluation) on at most ROWS rows of the training part, evenly spaced."""
    run = load(str(options.run), options.code)
    keep_programs(run.config)
    splits = run.config.load_data()
    count = min(len(splits.train), ROWS)
    batch = jax.tree.map(jnp.asarray, splits.train.take(np.arange(count) * len(splits.train) // count).batch())
    model = with_carry(run.model, 0)

    def loss_of(params: PyTree) -> jax.Array:
        y, _ = model.forward(params, batch["x"], Context.evaluation(run.state))
        return run.config.loss.forward(y, batch["y"], batch["weight"])[0]

    return run.params, loss_of


def first_weight(params: PyTree) -> str:
    """'00_dense/w/0/0' for the first array of at least two axes. Raises InputError where there is none."""
    for keys, leaf in jax.tree_util.tree_leaves_with_path(params):
        if leaf.ndim > 1:
            return f"{path_name(keys)}{'/0' * leaf.ndim}"
    raise InputError("the run has no matrix of weights: --weight names a parameter and its index")


def split_weight(text: str) -> tuple[str, tuple[int, ...]]:
    """('00_dense/w', (0, 1)) of '00_dense/w/0/1'. Raises InputError where it does not end in numbers."""
    words = text.split("/")
    index: list[int] = []
    while words and words[-1].isdecimal():
        index.insert(0, int(words.pop()))
    if not words or not index:
        raise InputError(f"--weight must be a path and an index such as 00_dense/w/0/1, got '{text}'")
    return "/".join(words), tuple(index)
