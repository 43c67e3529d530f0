"""What deep feed-forward nets pass back: the norm of a delta, rank and condition of the Jacobian, layer by layer.

    python -m bench.depth [--out=FILE.png]

Four nets of 64 layers of 32 units, as they are initialised. The Jacobian is that of the last layer's outputs in a lower
layer's, the product of the Jacobians of all layers between. Every figure is the median of nine nets and inputs.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from jaxbp import Dense, LayerNorm, ReLU, Sigmoid, Tanh, compose
from jaxbp.commands import cli
from jaxbp.commands.__main__ import guarded
from jaxbp.core import Context, Layer

WIDTH, DEPTH, SEEDS = 32, 64, 9
SHOWN = (1, 4, 16, 64)
ROUNDING = 1e15  # larger condition numbers cannot be told in float64
LAYERS: dict[str, Layer] = {
    "sigmoid": compose.Chain(Dense(WIDTH, w_init="glorot_normal"), Sigmoid()),
    "tanh": compose.Chain(Dense(WIDTH, w_init="glorot_normal"), Tanh()),
    "ReLU": compose.Chain(Dense(WIDTH, w_init="he_normal"), ReLU()),
    "ReLU, residual": compose.residual(compose.Chain(LayerNorm(), Dense(WIDTH, w_init="he_normal"), ReLU())),
}


@dataclass(frozen=True)
class Flow:
    """Of the Jacobian of the last layer in the one that is 1, 2 ... layers below; each [seeds, layers]."""

    norm: np.ndarray  # of a delta of norm 1 at the last layer, sent back: the root mean square over all directions
    rank: np.ndarray  # singular values above a thousandth of the largest
    condition: np.ndarray  # the largest singular value over the smallest


def jacobians(layer: Layer, depth: int, seed: jax.Array) -> jax.Array:
    """[depth, O, I]: the Jacobian of each layer of a net at one input, a row of backward for each output."""
    keys = jax.random.split(jax.random.key(seed), depth + 1)
    x = jnp.tile(jax.random.normal(keys[0], (1, WIDTH)), (WIDTH, 1))  # one input, once for each output

    def up(x: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        params = layer.init(key, x)
        y, cache = layer.forward(params, x, Context())
        return y, layer.backward(params, cache, jnp.eye(WIDTH, dtype=x.dtype))[0]

    return jax.lax.scan(up, x, keys[1:])[1]


def flow(layer: Layer, depth: int = DEPTH, seeds: int = SEEDS) -> Flow:
    """What comes back through the net of so many layers."""
    of_layers = np.asarray(jax.jit(jax.vmap(lambda seed: jacobians(layer, depth, seed)))(jnp.arange(seeds)), np.float64)
    product = np.eye(WIDTH)
    spectra = []
    for number in reversed(range(depth)):
        product = product @ of_layers[:, number]
        spectra.append(np.linalg.svd(product, compute_uv=False))
    values = np.stack(spectra, 1)  # [seeds, layers, WIDTH], falling
    norm = np.sqrt(np.mean(values**2, -1))
    with np.errstate(divide="ignore"):
        return Flow(norm, np.sum(values > 1e-3 * values[..., :1], -1), values[..., 0] / values[..., -1])


def draw(flows: dict[str, Flow], path: str) -> None:
    """Norm, rank and condition over the layers."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.2), layout="constrained")
    norm, rank, condition = figure.subplots(1, 3)
    for name, through in flows.items():
        for axes, values in ((norm, through.norm), (rank, through.rank), (condition, through.condition)):
            axes.plot(np.arange(1, values.shape[1] + 1), np.median(values, 0), label=name)
    norm.set_title("norm of a delta that is 1 at the last layer", fontsize=10)
    rank.set_title("singular values above 1/1000 of the largest", fontsize=10)
    condition.set_title("condition number of the Jacobian", fontsize=10)
    norm.set_yscale("log")
    condition.set_yscale("log")
    condition.set_ylim(1, 1e16)
    rank.set_ylim(0)
    for axes in (norm, rank, condition):
        axes.set_xlabel("layers passed", fontsize=8)
        axes.tick_params(labelsize=7)
        axes.grid(alpha=0.3)
    rank.legend(fontsize=7)
    figure.savefig(path, dpi=72)


class Options(cli.WithPicture):
    """The options of the program."""


def main(words: Sequence[str]) -> int:
    """Prints the table, draws the picture, and returns the exit status."""
    options = cli.read_all(Options, words)
    flows = {name: flow(layer) for name, layer in LAYERS.items()}
    print(f"| norm, rank, condition after | {' | '.join(map(str, SHOWN))} layers |\n|{'---|' * (len(SHOWN) + 1)}")
    for name, through in flows.items():
        at_layers = [[np.median(values[:, n - 1]) for values in vars(through).values()] for n in SHOWN]
        cells = [
            f"{norm:.1e}, {rank:.0f}, {f'{condition:.0e}' if condition < ROUNDING else 'lost to rounding'}"
            for norm, rank, condition in at_layers
        ]
        print(f"| {name} | {' | '.join(cells)} |")
    if options.out:
        draw(flows, options.out)
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
