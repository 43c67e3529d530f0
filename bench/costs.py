"""What a gradient costs, in twelve panels: operations and bytes counted in programs, and two of them timed.

    python -m bench.costs [--out=FILE.png]

prints the numbers of every panel, and draws them with --out. Operations are those of the program that JAX hands to the
compiler. Bytes are the compiled program's temporary memory.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

import jaxbp
from bench.race import finished, interleaved, temp_bytes
from jaxbp.analysis import products
from jaxbp.commands import cli
from jaxbp.commands.__main__ import guarded
from jaxbp.core import Batch, Layer, PyTree
from jaxbp.losses import SoftmaxCrossEntropy, SquaredError
from jaxbp.models import MLP
from jaxbp.optim.levenberg_marquardt import linearized
from jaxbp.optim.objective import Objective

Series = dict[str, tuple[list, list]]  # a line's name: its x and its y
ROWS = 64
Keep = Literal["all", "sqrt"]
KEEPS: tuple[Keep, ...] = ("all", "sqrt")


def operations(f: Callable, *arguments: Any) -> float:
    """Of floating-point numbers, in the program that JAX hands to the compiler."""
    count: dict[str, float] = jax.jit(f).lower(*arguments).cost_analysis() or {}
    return count.get("flops", 0) + count.get("transcendentals", 0)


def net(inputs: int, *widths: int) -> tuple[Layer, PyTree, Batch]:
    """A net of tanh units, with the shapes of its parameters and of a batch."""
    model = MLP(outputs=widths[-1], hidden=widths[:-1], activation="tanh").build()
    x = jax.ShapeDtypeStruct((ROWS, inputs), jnp.float32)
    params = jax.eval_shape(lambda key: model.init(key, x), jax.random.key(0))
    batch = {
        "x": x,
        "y": jax.ShapeDtypeStruct((ROWS,), jnp.int32),
        "weight": jax.ShapeDtypeStruct((ROWS,), jnp.float32),
    }
    return model, params, batch


def weights(params: PyTree) -> int:
    """How many numbers they are."""
    return sum(p.size for p in jax.tree.leaves(params))


@cache
def of_passes(inputs: int, *widths: int) -> tuple[int, float, float]:
    """(weights, operations of a forward pass, of a gradient)."""
    model, params, batch = net(inputs, *widths)
    gradient = jaxbp.value_and_grad(model, SoftmaxCrossEntropy())
    value = operations(lambda *a: gradient(*a).value, params, batch)
    return weights(params), value, operations(lambda *a: gradient(*a).grads, params, batch)


SIZES = [(1, 2, 3), (4, 8, 4), (16, 32, 10), (64, 128, 64, 10), (256, 512, 256, 10), (784, 1024, 1024, 10)]
SIZES = [*SIZES, (1024, 2048, 2048, 2048, 10)]


def by_depth() -> Series:
    """Operations of a gradient over those of a forward pass."""
    depths = [1, 2, 5, 10, 20, 50, 100, 200]
    counts = [of_passes(16, *(16,) * depth) for depth in depths]
    return {"gradient / forward pass": (depths, [back / forward for _, forward, back in counts])}


def by_size() -> Series:
    """The same for nets of 10 to 10^7 weights."""
    counts = [of_passes(*sizes) for sizes in SIZES]
    return {"gradient / forward pass": ([n for n, _, _ in counts], [back / forward for _, forward, back in counts])}


def by_moving(gradient: Callable[..., jaxbp.Result]) -> Callable[[PyTree, Batch], jax.Array]:
    """(params, batch) -> the gradient [P] by one-sided differences: P + 1 forward passes."""

    def run(params: PyTree, batch: Batch) -> jax.Array:
        flat, whole = ravel_pytree(params)
        base = gradient(params, batch).value
        moved = lambda i: (gradient(whole(flat.at[i].add(1e-3)), batch).value - base) / 1e-3
        return jax.lax.map(moved, jnp.arange(flat.size))

    return run


def by_differences() -> Series:
    """n + 1 forward passes over one gradient: counted, and timed up to 10^5 weights with one example."""
    counts = [of_passes(*sizes) for sizes in SIZES]
    counted = [(n + 1) * forward / back for n, forward, back in counts]
    timed = []
    for sizes in ((16, 32, 10), (64, 128, 64, 10), (256, 320, 50, 10)):
        model, shapes, _ = net(*sizes)
        x = jax.random.normal(jax.random.key(0), (1, sizes[0]))
        arguments = model.init(jax.random.key(1), x), jaxbp.batch(x, jnp.zeros(1, jnp.int32))
        gradient = jaxbp.value_and_grad(model, SoftmaxCrossEntropy())
        functions: dict[str, Callable] = {"gradient": gradient, "differences": by_moving(gradient)}
        programs = {name: jax.jit(f).lower(*arguments).compile() for name, f in functions.items()}
        times = interleaved({name: partial(finished, program, arguments) for name, program in programs.items()}, 2)
        timed.append((weights(shapes), times["differences"] / times["gradient"]))
    return {
        "counted": ([n for n, _, _ in counts], counted),
        "timed, one example": ([n for n, _ in timed], [ratio for _, ratio in timed]),
    }


def back(depth: int, width: int, dy: jax.Array) -> jax.Array:
    """The pass back of a linear net whose weights are one: the number of paths from an output to each input."""
    model = jaxbp.Chain(tuple(jaxbp.Dense(width, bias=False, w_init="ones") for _ in range(depth)))
    x = jnp.ones((1, width))
    params = model.init(jax.random.key(0), x)
    return model.backward(params, model.forward(params, x, jaxbp.Context())[1], dy)[0]


def paths() -> Series:
    """Terms of the chain rule as a sum over paths, and operations of the pass back."""
    width, depths = 4, [2, 4, 6, 8, 10, 12]
    counts = [operations(lambda dy, depth=depth: back(depth, width, dy), jnp.eye(width)[:1]) for depth in depths]
    return {
        "paths to one input": (depths, [float(width) ** (depth - 1) for depth in depths]),
        "operations of the pass, all inputs": (depths, counts),
    }


def whole_batch() -> Series:
    """Milliseconds of a gradient of 784-30-10 with 256 examples; the loop over entries is timed on a part of them."""
    model = MLP(outputs=10, hidden=(30,), activation="sigmoid").build()
    x = jax.random.normal(jax.random.key(0), (256, 784))
    params = model.init(jax.random.key(1), x)
    gradient = jax.jit(jaxbp.value_and_grad(model, SoftmaxCrossEntropy()))
    batch = {"x": x, "y": jnp.zeros(256, jnp.int32), "weight": jnp.full(256, 1 / 256)}
    examples = [jax.tree.map(lambda a, i=i: a[i : i + 1], batch) for i in range(256)]

    def by_examples() -> PyTree:
        total = jax.tree.map(jnp.zeros_like, params)
        for example in examples:
            total = jax.tree.map(np.add, total, gradient(params, example).grads)
        return total

    runs = {"whole batch": lambda: jax.block_until_ready(gradient(params, batch)), "examples": by_examples}
    times = interleaved(runs, 3)
    row, units = np.asarray(x[0]).tolist(), np.asarray(jax.tree.leaves(params)[1]).tolist()

    def entries() -> float:
        return sum(sum(a * w for a, w in zip(row, unit, strict=True)) for unit in units)

    entry = interleaved({"entries": entries}, 5)["entries"] / (784 * 30)
    times["entries"] = entry * 256 * (2 * 784 * 30 + 3 * 30 * 10)  # multiply-adds of both passes, without the first dx
    return {"ms": (list(times), list(times.values()))}


def jacobian_bytes() -> Series:
    """Bytes of the Jacobian of a softmax for 64 examples, and of all arrays of its product with a delta."""
    softmax = jaxbp.Softmax()
    widths = [64, 256, 1024, 4096]
    used = []
    for width in widths:
        y = jax.ShapeDtypeStruct((64, width), jnp.float32)
        program = jax.jit(lambda y, dy: softmax.backward({}, y, dy)[0]).lower(y, y).compile()
        used.append(3 * 4 * 64 * width + temp_bytes(program))  # y, dy, dx
    return {"Jacobian": (widths, [4.0 * 64 * width**2 for width in widths]), "product with a delta": (widths, used)}


def hessian_products() -> Series:
    """Operations of a Hessian product over those of a gradient."""
    depths = [1, 2, 5, 10, 20, 50]
    ratios = []
    for depth in depths:
        model, params, batch = net(16, *(16,) * depth)
        product = products.hessian(jaxbp.value_and_grad(model, SoftmaxCrossEntropy()))
        ratios.append(operations(product, params, batch, params) / of_passes(16, *(16,) * depth)[2])
    return {"Hessian product / gradient": (depths, ratios)}


def curvature_matrices() -> Series:
    """Operations of the Jacobian of Levenberg and Marquardt, and of the Hessian by its products, over a gradient's."""
    hiddens = [2, 8, 32, 128]
    counts, jacobian, hessian = [], [], []
    for hidden in hiddens:
        model, params, batch = net(8, hidden, 2)
        batch = batch | {"y": jax.ShapeDtypeStruct((ROWS, 2), jnp.float32)}
        objective = Objective(model, SquaredError())
        gradient = objective.gradient()
        base = operations(lambda p, b, gradient=gradient: gradient(p, b).grads, params, batch)
        rows = lambda p, b, objective=objective: linearized(objective, p, b, jaxbp.Context())
        counts.append(weights(params))
        jacobian.append(operations(rows, params, batch) / base)
        hessian.append(counts[-1] * operations(products.hessian(gradient), params, batch, params) / base)
    return {"Jacobian of LM, 2 outputs": (counts, jacobian), "Hessian by products": (counts, hessian)}


def fisher_numbers(*sizes: int) -> dict[str, int]:
    """How many numbers the gradient has, and the Fisher matrix whole, of each unit and as Kronecker factors."""
    layers = [(i + 1, o) for i, o in itertools.pairwise(sizes)]
    total = sum(i * o for i, o in layers)
    return {
        "whole matrix": total**2,
        "one for each unit": sum(o * i * i for i, o in layers),
        "Kronecker factors": sum(i * i + o * o for i, o in layers),
        "gradient": total,
    }


def fisher_memory() -> Series:
    """Bytes in float32."""
    numbers = [fisher_numbers(*sizes) for sizes in SIZES]
    return {name: ([n["gradient"] for n in numbers], [4 * n[name] for n in numbers]) for name in numbers[0]}


def through_time(steps: int, keep: Keep) -> int:
    """Bytes of a gradient of the last of so many steps of an LSTM."""
    model = jaxbp.Recurrent(jaxbp.LSTMCell(16), output="last", keep=keep)
    x = jax.ShapeDtypeStruct((1, steps, 4), jnp.float32)
    params = jax.eval_shape(lambda key: model.init(key, x), jax.random.key(0))

    def gradient(params: PyTree, x: jax.Array) -> PyTree:
        y, cache = model.forward(params, x, jaxbp.Context())
        return model.backward(params, cache, y)[1]

    return temp_bytes(jax.jit(gradient).lower(params, x).compile())


def time_memory() -> Series:
    """Bytes by the number of steps."""
    steps = [100, 1000, 10_000]
    return {f'keep="{keep}"': (steps, [through_time(n, keep) for n in steps]) for keep in KEEPS}


@dataclass(frozen=True)
class Expression:
    """A variable, or an operation on expressions. Its size is that of the text: what is used twice counts twice."""

    name: str
    parts: tuple[Expression, ...] = ()
    size: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", 1 + sum(part.size for part in self.parts))

    def __add__(self, other: Expression) -> Expression:
        return Expression("+", (self, other))

    def __mul__(self, other: Expression) -> Expression:
        return Expression("*", (self, other))

    def derivative(self) -> Expression:
        """By the variable x."""
        if not self.parts:
            return Expression("1" if self.name == "x" else "0")
        slopes = [part.derivative() for part in self.parts]
        if self.name == "+":
            return slopes[0] + slopes[1]
        if self.name == "*":
            return slopes[0] * self.parts[1] + self.parts[0] * slopes[1]
        return Expression("1 - tanh^2", self.parts) * slopes[0]


def swelling(depth: int) -> tuple[int, int, int]:
    """(nodes of a net of two units a layer as an expression, of its derivative, operations of both passes)."""
    units = [Expression("x"), Expression("x")]
    for _ in range(depth):
        sums = [Expression("w") * units[0] + Expression("w") * units[1] for _ in range(2)]
        units = [Expression("tanh", (total,)) for total in sums]
    return units[0].size, units[0].derivative().size, depth * (2 * 7 + 2 * 10)


def symbols() -> Series:
    """Nodes by depth."""
    depths = list(range(1, 8))
    expression, derivative, passes = zip(*map(swelling, depths), strict=True)
    return {
        "derivative": (depths, list(derivative)),
        "expression": (depths, list(expression)),
        "operations of both passes": (depths, list(passes)),
    }


def difference_errors(steps: Sequence[float]) -> Series:
    """Relative errors of the slope of a net's loss along one weight, in float64; the truth is the gradient by hand."""
    with jax.enable_x64(True):
        model = jaxbp.Chain((jaxbp.Dense(5), jaxbp.Tanh(), jaxbp.Dense(1)))
        x = jnp.linspace(-1, 1, 20)[:, None]
        params = jax.tree.map(lambda p: p.astype(jnp.float64), model.init(jax.random.key(0), x))
        flat, whole = ravel_pytree(params)
        batch = jaxbp.batch(x, jnp.sin(3 * x))
        gradient = jax.jit(lambda flat: jaxbp.value_and_grad(model, SquaredError())(whole(flat), batch))
        value = lambda step: float(gradient(flat.at[6].add(step)).value)
        slope = float(ravel_pytree(gradient(flat).grads)[0][6])
        error = lambda estimate: max(abs(estimate - slope) / abs(slope), 1e-16)
        forward = [error((value(h) - value(0.0)) / h) for h in steps]
        central = [error((value(h) - value(-h)) / (2 * h)) for h in steps]
    return {"forward": (list(steps), forward), "central": (list(steps), central)}


def differences() -> Series:
    """Their errors from a step of 1 to one of 1e-14."""
    return difference_errors([10.0 ** (-k / 4) for k in range(57)])


PANELS: dict[str, tuple[Callable[[], Series], str, str]] = {  # title: (its numbers, scales of both axes, label of x)
    "Operations by depth": (by_depth, "log linear", "layers of 16"),
    "Operations by size": (by_size, "log linear", "weights"),
    "Differences over a gradient": (by_differences, "log log", "weights"),
    "Sum over paths": (paths, "linear log", "layers of 4"),
    "784-30-10, 256 examples: ms": (whole_batch, "bars", ""),
    "Jacobian of a softmax: bytes": (jacobian_bytes, "log log", "outputs, 64 examples"),
    "Hessian products: operations": (hessian_products, "log linear", "layers of 16"),
    "Gradients that a matrix costs": (curvature_matrices, "log log", "weights"),
    "Fisher matrix: bytes": (fisher_memory, "log log", "weights"),
    "Through time: bytes": (time_memory, "log log", "steps"),
    "Symbols: nodes": (symbols, "linear log", "layers of 2"),
    "Error of differences": (differences, "log log", "step"),
}


def draw(numbers: dict[str, Series], path: str) -> None:
    """All panels in one picture."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 8.6), layout="constrained")
    for axes, (title, series) in zip(figure.subplots(3, 4).flat, numbers.items(), strict=True):
        _, scales, label = PANELS[title]
        axes.set_title(title, fontsize=10)
        axes.set_xlabel(label, fontsize=8)
        axes.tick_params(labelsize=7)
        for name, (x, y) in series.items():
            if scales == "bars":
                axes.bar(x, y, width=0.5)
                axes.bar_label(axes.containers[0], fmt="%.3g", fontsize=8)
                axes.set_yscale("log")
                axes.set_ylim(0.1, 1e4)
            else:
                axes.plot(x, y, marker="o" if len(x) < 20 else None, markersize=3, label=name)
        if scales != "bars":
            x_scale, y_scale = scales.split()
            axes.set_xscale(x_scale)
            axes.set_yscale(y_scale)
            axes.legend(fontsize=7)
            if y_scale == "linear":
                axes.set_ylim(0, 4.5)
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=72)


class Options(cli.WithPicture):
    """The options of the program."""


def main(words: Sequence[str]) -> int:
    """Prints the numbers, draws them, and returns the exit status."""
    options = cli.read_all(Options, words)
    numbers = {}
    for title, (panel, _, label) in PANELS.items():
        numbers[title] = panel()
        print(title)
        for name, (x, y) in numbers[title].items():
            shown = [
                f"{a}: {b:.3g}" if isinstance(a, str | int) else f"{a:.1e}: {b:.1e}" for a, b in zip(x, y, strict=True)
            ]
            print(f"  {name} ({label}): {', '.join(shown)}", flush=True)
    if options.out:
        draw(numbers, options.out)
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
