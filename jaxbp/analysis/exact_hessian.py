"""The Hessian of a small dense net entry by entry, by two hand-written backward passes of second order.

A stage s is a dense layer, a_s = W_s z_s, where z_s is 1 and then f(a_(s-1)). So the bias is the first column of W_s.
For an example, with d_s = dE / da_s, p_s = W_s^T d_s and N_s = da_s / da_(s-1) = W_s diag f'(a_(s-1)), both without
the bias:

Bishop (1992, Neural Computation 4(4)), forward and back for every lower stage m, with l >= m:

    g_m = I,   g_l = N_l g_(l-1)                                       da_l / da_m, forward
    b_L = H g_L,   b_(l-1) = N_l^T b_l + diag(f'' p_l) g_(l-1)         d(d_l) / da_m, back; H of the loss in a_L
    d^2 E / dW_l dW_m = (b_l z_l + d_l dz_l / da_(l-1) g_(l-1)) z_m    the second term for l > m alone

Stagewise (Mizutani & Dreyfus 2008, Neural Networks 21(2-3)), once back, with t >= s:

    Z_L = H,   Z_(s-1) = N_s^T Z_s N_s + diag(f'' p_s)                 d^2 E / da_s^2
    F_ss = Z_s z_s,   F_t(s-1) = F_ts N_s, and for t = s also + d_s dz_s / da_(s-1)
    d^2 E / dW_t dW_s = F_ts z_s                                       F_ts = d^2 E / dW_t da_s

The second is linear in its sources. H alone gives the Gauss-Newton matrix J^T H J. The terms with d_s, which carry the
residuals, give the rest S. S is sparse in blocks: within the last stage it is zero, within the hidden stage of a net
with one it has no entry between two units, and between these two stages only where the weights share a unit.

Both need examples, widths and parameters to be few: they hold arrays of P entries an example and unit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxbp.analysis.products import output_delta
from jaxbp.compose import Chain
from jaxbp.core import Batch, Context, PyTree, entry
from jaxbp.errors import InputError
from jaxbp.layers.activations import Activation
from jaxbp.layers.dense import Dense
from jaxbp.losses import Loss


class Parts(NamedTuple):
    """The Hessian is their sum."""

    gauss_newton: jax.Array  # J^T H J [P, P]
    residual: jax.Array  # S [P, P]


@dataclass(frozen=True)
class Stage:
    """What the passes need of a dense layer with O units and I inputs; the first has no units below."""

    z: jax.Array  # [N, 1 + I]
    delta: jax.Array  # d_s [N, O]
    step: jax.Array  # N_s [N, O, I]
    dz: jax.Array  # dz_s / da_(s-1) [N, 1 + I, I]
    bend: jax.Array  # f'' p_s [N, I]


def bishop(model: Chain, loss: Loss) -> Callable[[PyTree, Batch], jax.Array]:
    """(params, batch) -> the Hessian [P, P] of sum w l, in the order of ravel_pytree.

    Raises InputError unless the model is a chain of dense layers with biases and an entry-wise activation between each
    two, and x is [N, I].
    """

    def run(params: PyTree, batch: Batch) -> jax.Array:
        stages, h = stages_of(model, loss, params, batch)
        blocks: dict[tuple[int, int], jax.Array] = {}
        for m in range(len(stages)):
            delta = stages[m].delta
            g = {m: jnp.ones_like(delta)[..., None] * jnp.eye(delta.shape[1], dtype=delta.dtype)}
            for s in range(m + 1, len(stages)):
                g[s] = jnp.einsum("noi,nim->nom", stages[s].step, g[s - 1])
            b = jnp.einsum("nop,npm->nom", h, g[len(stages) - 1])
            for s in range(len(stages) - 1, m - 1, -1):
                stage = stages[s]
                slope = jnp.einsum("nom,np->nopm", b, stage.z)  # d(d_s z_s) / da_m
                if s > m:
                    slope = slope + jnp.einsum("no,npi,nim->nopm", stage.delta, stage.dz, g[s - 1])
                    b = jnp.einsum("noi,nom->nim", stage.step, b) + stage.bend[..., None] * g[s - 1]
                blocks[s, m] = jnp.einsum("nopm,nq->opmq", slope, stages[m].z)
        return assembled(blocks)

    return run


def stagewise(model: Chain, loss: Loss) -> Callable[[PyTree, Batch], Parts]:
    """(params, batch) -> the two parts of the Hessian of sum w l, in the order of ravel_pytree.

    Raises InputError unless the model is a chain of dense layers with biases and an entry-wise activation between each
    two, and x is [N, I].
    """

    def back(stages: list[Stage], z: jax.Array, of_residuals: float) -> jax.Array:
        """From Z_L, with the terms of d_s times `of_residuals`."""
        blocks: dict[tuple[int, int], jax.Array] = {}
        f: dict[int, jax.Array] = {}
        for s in range(len(stages) - 1, -1, -1):
            stage = stages[s]
            f[s] = jnp.einsum("nou,np->nopu", z, stage.z)
            blocks |= {(t, s): jnp.einsum("nopu,nq->opuq", f[t], stage.z) for t in f}
            f = {t: jnp.einsum("nopu,nui->nopi", f[t], stage.step) for t in f}
            f[s] = f[s] + of_residuals * jnp.einsum("no,npi->nopi", stage.delta, stage.dz)
            z = jnp.einsum("noi,nou,nuj->nij", stage.step, z, stage.step)
            z = z + of_residuals * jnp.einsum("ni,ij->nij", stage.bend, jnp.eye(z.shape[-1], dtype=z.dtype))
        return assembled(blocks)

    def run(params: PyTree, batch: Batch) -> Parts:
        stages, h = stages_of(model, loss, params, batch)
        return Parts(back(stages, h, 0.0), back(stages, jnp.zeros_like(h), 1.0))

    return run


def stages_of(model: Chain, loss: Loss, params: PyTree, batch: Batch) -> tuple[list[Stage], jax.Array]:
    """-> (the stages, H [N, O, O]), by one forward and one backward pass."""
    dense, activations = model.layers[::2], model.layers[1::2]
    by_entry = all(isinstance(layer, Activation) and layer.letters.passes for layer in activations)
    alternate = len(dense) == len(activations) + 1 and by_entry
    if not alternate or not all(isinstance(layer, Dense) and layer.bias for layer in dense):
        kinds = ", ".join(type(layer).__name__ for layer in model.layers)
        words = "Dense layers with a bias and entry-wise activations between"
        raise InputError(f"exact Hessian: the model must be {words}, got {kinds}")
    if entry(batch, "x").ndim != 2:
        raise InputError(f"exact Hessian: x must be [N, I], got {list(batch['x'].shape)}")
    weights = [params[name]["w"] for _, name, _ in model.named()[::2]]
    biases = [params[name]["b"] for _, name, _ in model.named()[::2]]
    z = batch["x"]
    inputs, slopes, bends = [z], [jnp.zeros_like(z)], [jnp.zeros_like(z)]  # x depends on no weight
    for w, b, activation in zip(weights, biases, activations, strict=False):
        slope = lambda a, f=activation: f.backward({}, f.forward({}, a, Context())[1], jnp.ones_like(a))[0]
        a = z @ w.T + b
        z = activation.forward({}, a, Context())[0]
        f_prime, f_second = jax.jvp(slope, (a,), (jnp.ones_like(a),))
        inputs, slopes, bends = [*inputs, z], [*slopes, f_prime], [*bends, f_second]
    y = z @ weights[-1].T + biases[-1]
    of_outputs = lambda y: output_delta(loss, y, batch)
    column = lambda e: jax.jvp(of_outputs, (y,), (jnp.broadcast_to(e, y.shape),))[1]
    h = jnp.moveaxis(jax.vmap(column)(jnp.eye(y.shape[-1], dtype=y.dtype)), 0, -1)
    delta = of_outputs(y)
    stages: list[Stage] = []
    for w, z, f_prime, f_second in reversed(list(zip(weights, inputs, slopes, bends, strict=True))):
        pulled = delta @ w
        dz = jnp.eye(z.shape[1] + 1, z.shape[1], -1, dtype=z.dtype) * f_prime[:, None]
        with_one = jnp.pad(z, ((0, 0), (1, 0)), constant_values=1)
        stages.insert(0, Stage(with_one, delta, w * f_prime[:, None], dz, f_second * pulled))
        delta = f_prime * pulled
    return stages, h


def assembled(blocks: dict[tuple[int, int], jax.Array]) -> jax.Array:
    """[P, P] from the blocks [O, 1 + I, O', 1 + I'] with t >= s. ravel_pytree has a layer's biases before its w."""
    count = 1 + max(blocks)[0]

    def biases_first(block: jax.Array) -> jax.Array:
        """[O, 1 + I, ...] -> [O (1 + I), ...]."""
        return jnp.concatenate([block[:, 0], block[:, 1:].reshape(-1, *block.shape[2:])])

    def matrix(t: int, s: int) -> jax.Array:
        if t < s:
            return matrix(s, t).T
        rows = biases_first(blocks[t, s])
        return biases_first(jnp.moveaxis(rows, 0, -1)).T

    return jnp.block([[matrix(t, s) for s in range(count)] for t in range(count)])
