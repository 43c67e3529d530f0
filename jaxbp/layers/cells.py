"""Cells: one time step of a recurrent network. With (a_x = x wx^T + b) and * entry by entry:

    SimpleCell  h' = f(a_x + h wh^T)                                        Elman 1990; tanh unless asked otherwise
    LSTMCell    i, f, o = sigmoid, g = tanh of a_x + h wh^T                 Hochreiter & Schmidhuber 1997
                c' = f * c + i * g,  h' = o * tanh c'                       forget gate: Gers et al. 2000
                peepholes: i and f also see p * c, o sees p * c'            Gers & Schmidhuber 2000
    GRUCell     r, u = sigmoid(a_x + h wh^T),  h' = (1 - u) * n + u * h     Cho et al. 2014
                reset "after":  n = tanh(a_x + r * (h wh^T + bh))           the product first: cuDNN, PyTorch
                reset "before": n = tanh(a_x + (r * h) wn^T)                the paper's own

Going back, every pre-activation's delta is the delta of the state times a derivative factor that is known before the
loop back starts, which thus holds one product with each recurrent matrix and few multiplications. With t = tanh c':

    simple  dz = dh f'(z),                  dh_before = dz wh
    LSTM    dc' = dc + dh o (1 - t^2)       the factor of dh: plus o (1 - o) t p_o with peepholes
            dz = [dc' g i (1 - i), dc' c f (1 - f), dc' i (1 - g^2), dh t o (1 - o)]
            dh_before = dz wh,              dc_before = dc' f      plus dz_i p_i + dz_f p_f with peepholes
    GRU     dn = dh (1 - u)(1 - n^2),       du = dh (h - n) u (1 - u)
            after   dr = dn q r (1 - r) with q = h wh_n^T + bh,    dh_before = [dr, du, dn r] wh + dh u
            before  dr = d h r (1 - r) with d = dn wn,             dh_before = [dr, du] wh + d r + dh u

and the weight gradients are products of whole sequences: dwx = sum_t dz_t x_t^T, dwh = sum_t dz_t h_t-1^T.

Each step keeps its gates and its state. Gates lie side by side in PyTorch's order: i f g o, r u n. The loop back emits
only the state's deltas where that is smaller; those of the gates are computed after it, for all steps at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp

from jaxbp.core import Case, Context, Layer, PyTree, cast, require, shaped
from jaxbp.errors import unknown
from jaxbp.factors import Factors
from jaxbp.inits import Initializer, initializer
from jaxbp.ops.bias import add_bias, bias_gradient
from jaxbp.ops.products import across, along, contraction, rounded
from jaxbp.typed import Count, fits

Arrays = tuple[jax.Array, ...]
Pairs = dict[str, tuple[jax.Array | None, jax.Array]]

FROM_OUTPUT: dict[str, tuple[Callable, Callable]] = {  # f, and f' as a function of the output
    "tanh": (jnp.tanh, lambda y: 1 - y * y),
    "sigmoid": (jax.nn.sigmoid, lambda y: y * (1 - y)),
    "relu": (jax.nn.relu, lambda y: jnp.where(y > 0, 1, 0).astype(y.dtype)),
    "identity": (lambda z: z, jnp.ones_like),
}


@dataclass(frozen=True)
class Cell(Layer):
    """One step (x [N, D], state) -> state. The state is a tuple of [N, H]; its first array is the output.

    A new cell writes `init`, `loop_weights`, `step`, `slopes`, `step_backward` and `pairs`; they work on any leading
    axes. It is then a layer of its own (to sample from, or to learn in real time) and what Recurrent runs over time.

    features: H, at least 1. w_init, wh_init, b_init: initializers of input weights, recurrent weights and biases. Each
    gate's weights are drawn by themselves (fan_in = D or H, fan_out = H).
    """

    features: int
    w_init: str | Initializer = "glorot_uniform"
    wh_init: str | Initializer = "orthogonal"
    b_init: str | Initializer = "zeros"

    @property
    def states(self) -> int:
        """How many arrays the state is."""
        return 1

    @property
    def gates(self) -> int:
        """How many arrays a step keeps besides the state."""
        return 0

    def __post_init__(self) -> None:
        require(self, "features", self.features >= 1, "at least 1")
        for init in (self.w_init, self.wh_init, self.b_init):
            initializer(init)

    def start(self, rows: int, dtype: jnp.dtype) -> Arrays:
        """The state of zeros."""
        return tuple(jnp.zeros((rows, self.features), dtype) for _ in range(self.states))

    def matrix(self, key: jax.Array, init: str | Initializer, gates: int, fan_in: int) -> jax.Array:
        """Weights [gates * H, fan_in], each gate's drawn by themselves."""
        draw = lambda key: initializer(init)(key, (self.features, fan_in), in_axis=-1, out_axis=-2)
        return jnp.concatenate([draw(k) for k in jax.random.split(key, gates)])

    def bias(self, key: jax.Array, gates: int) -> jax.Array:
        """A bias [gates * H]."""
        return initializer(self.b_init)(key, (gates * self.features,), in_axis=-1, out_axis=-1)

    def project(self, params: PyTree, x: jax.Array) -> jax.Array:
        """The part of all pre-activations that does not wait for the state: x wx^T + b."""
        return add_bias(rounded("...i,gi->...g", x, params["wx"].astype(x.dtype)), params["b"])

    def loop_weights(self, params: PyTree) -> PyTree:
        """The weights of `step`, transposed once outside the loop."""
        raise NotImplementedError

    def step(self, weights: PyTree, state: Arrays, a: jax.Array) -> tuple[Arrays, Arrays]:
        """-> (state, gates): one step, from `loop_weights` and the projected input."""
        raise NotImplementedError

    def slopes(self, params: PyTree, before: Arrays, gates: Arrays, after: Arrays) -> Arrays:
        """The derivative factors of `step_backward`, for whole sequences at once."""
        raise NotImplementedError

    def step_backward(self, params: PyTree, dstate: Arrays, slopes: Arrays) -> tuple[Arrays, Arrays]:
        """-> (dstate before the step, the deltas that `pairs` needs): linear in dstate."""
        raise NotImplementedError

    def pairs(
        self, x: jax.Array, before: Arrays, gates: Arrays, after: Arrays, slopes: Arrays, deltas: Arrays
    ) -> Pairs:
        """{leaf: (activation, delta)}: the gradient is their contraction. None is an activation of ones.

        deltas are those of step_backward. A step where they are zero must give a delta of zero here.
        """
        raise NotImplementedError

    def gradients(self, params: PyTree, pairs: Pairs) -> tuple[jax.Array, PyTree]:
        """-> (dx, grads): one product for each weight, over all steps at once."""
        grads = {}
        for leaf, (a, g) in pairs.items():
            dtype = params[leaf].dtype
            grads[leaf] = bias_gradient(g, dtype) if a is None else contraction(g, a, dtype)
        dz = pairs["wx"][1]
        return rounded("...g,gi->...i", dz, params["wx"].astype(dz.dtype)), grads

    def forward(self, params: PyTree, x: tuple[jax.Array, Arrays], ctx: Context = Context()) -> tuple[Arrays, PyTree]:
        inputs, before = x
        weights = self.loop_weights(cast(params, inputs.dtype))
        after, gates = self.step(weights, before, self.project(params, inputs))
        return after, (inputs, before, gates, after)

    def backward(self, params: PyTree, cache: PyTree, dstate: Arrays) -> tuple[tuple[jax.Array, Arrays], PyTree]:
        dbefore, pairs = self._step_pairs(params, cache, dstate)
        dx, grads = self.gradients(params, pairs)
        return (dx, dbefore), grads

    def _step_pairs(self, params: PyTree, cache: PyTree, dstate: Arrays) -> tuple[Arrays, Pairs]:
        x, before, gates, after = cache
        weights = cast(params, x.dtype)
        slopes = self.slopes(weights, before, gates, after)
        dbefore, deltas = self.step_backward(weights, dstate, slopes)
        return dbefore, self.pairs(x, before, gates, after, slopes, deltas)

    def factors(self, params: PyTree, cache: PyTree, dstate: Arrays) -> dict[str, Factors]:
        pairs = self._step_pairs(params, cache, dstate)[1]
        return factors_of({leaf: (None if a is None else a[:, None], g[:, None]) for leaf, (a, g) in pairs.items()})


def factors_of(pairs: Pairs) -> dict[str, Factors]:
    """The factors of pairs with the batch first, [N, T, .]."""
    return {leaf: Factors.of_bias(g) if a is None else Factors(a, g) for leaf, (a, g) in pairs.items()}


@dataclass(frozen=True)
class SimpleCell(Cell):
    """h' = f(x wx^T + b + sum_k h_k wh_k^T), with wx [H, D], wh [H, H] for each delay side by side, b [H].

    activation: "tanh", "sigmoid", "relu" or "identity". wh_init="identity" with "relu" is the IRNN of Le et al. 2015.
    delays: h_k is the output of delays[k] steps ago, at least 1; the state is the outputs of the last steps.
    """

    activation: str = "tanh"
    delays: tuple[int, ...] = (1,)

    @property
    def states(self) -> int:
        return max(self.delays)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.activation not in FROM_OUTPUT:
            raise unknown("SimpleCell activation", self.activation, FROM_OUTPUT)
        whole = fits(self.delays, tuple[Count, ...]) and len(self.delays) > 0
        require(self, "delays", whole, "a tuple of one or more whole numbers of at least 1")

    def init(self, key: jax.Array, spec: PyTree) -> PyTree:
        x, h, b = jax.random.split(key, 3)
        wx = self.matrix(x, self.w_init, 1, spec[0].shape[-1])
        wh = self.matrix(h, self.wh_init, len(self.delays), self.features)
        return {"wx": wx, "wh": jnp.concatenate(jnp.split(wh, len(self.delays)), 1), "b": self.bias(b, 1)}

    def loop_weights(self, params: PyTree) -> PyTree:
        return params["wh"].T

    def heard(self, state: Arrays) -> jax.Array:
        """The outputs [..., K H] that the recurrent weights meet."""
        return jnp.concatenate([state[d - 1] for d in self.delays], -1)

    def step(self, weights: PyTree, state: Arrays, a: jax.Array) -> tuple[Arrays, Arrays]:
        return (FROM_OUTPUT[self.activation][0](a + across(self.heard(state), weights)), *state[:-1]), ()

    def slopes(self, params: PyTree, before: Arrays, gates: Arrays, after: Arrays) -> Arrays:
        return after[:1]

    def step_backward(self, params: PyTree, dstate: Arrays, slopes: Arrays) -> tuple[Arrays, Arrays]:
        dz = dstate[0] * FROM_OUTPUT[self.activation][1](slopes[0])
        dbefore = [*dstate[1:], jnp.zeros_like(dz)]
        for d, back in zip(self.delays, jnp.split(across(dz, params["wh"]), len(self.delays), -1), strict=True):
            dbefore[d - 1] += back
        return tuple(dbefore), (dz,)

    def pairs(
        self, x: jax.Array, before: Arrays, gates: Arrays, after: Arrays, slopes: Arrays, deltas: Arrays
    ) -> Pairs:
        (dz,) = deltas
        return {"wx": (x, dz), "wh": (self.heard(before), dz), "b": (None, dz)}

    @classmethod
    def cases(cls) -> list[Case]:
        return [Case(SimpleCell(2, delays=(1, 3)), (shaped(5, 3), (shaped(5, 2),) * 3))]


@dataclass(frozen=True)
class LSTMCell(Cell):
    """Long short-term memory; state (h, c), wx [4H, D], wh [4H, H], b [4H], gates i f g o, peephole [3H] for i f o.

    forget_bias is added to the forget gate's bias when it is drawn: 1 keeps the memory open (Jozefowicz et al. 2015).
    """

    peephole: bool = False
    forget_bias: float = 1.0

    states: ClassVar[int] = 2
    gates: ClassVar[int] = 4  # i f g o

    def init(self, key: jax.Array, spec: PyTree) -> PyTree:
        x, h, b, p = jax.random.split(key, 4)
        forget = jnp.repeat(jnp.array([0, self.forget_bias, 0, 0], jnp.float32), self.features)
        params = {
            "wx": self.matrix(x, self.w_init, 4, spec[0].shape[-1]),
            "wh": self.matrix(h, self.wh_init, 4, self.features),
            "b": self.bias(b, 4) + forget,
        }
        if self.peephole:
            params["peephole"] = self.bias(p, 3)
        return params

    def loop_weights(self, params: PyTree) -> PyTree:
        return params["wh"].T, jnp.split(params["peephole"], 3) if self.peephole else None

    def step(self, weights: PyTree, state: Arrays, a: jax.Array) -> tuple[Arrays, Arrays]:
        wh, peepholes = weights
        h, c = state
        i, f, g, o = jnp.split(a + across(h, wh), 4, -1)
        if peepholes:
            i = i + along(c, peepholes[0])
            f = f + along(c, peepholes[1])
        i = jax.nn.sigmoid(i)
        f = jax.nn.sigmoid(f)
        g = jnp.tanh(g)
        c = f * c + i * g
        o = jax.nn.sigmoid(o + along(c, peepholes[2]) if peepholes else o)
        return (o * jnp.tanh(c), c), (i, f, g, o)

    def slopes(self, params: PyTree, before: Arrays, gates: Arrays, after: Arrays) -> Arrays:
        _, c = before
        i, f, g, o = gates
        t = jnp.tanh(after[1])
        ki = g * i * (1 - i)
        kf = c * f * (1 - f)
        kg = i * (1 - g * g)
        ko = t * o * (1 - o)
        dc_of_dh = o * (1 - t * t)
        dc_of_dc = f
        if self.peephole:
            pi, pf, po = jnp.split(params["peephole"], 3)
            dc_of_dh = dc_of_dh + along(ko, po)
            dc_of_dc = f + along(ki, pi) + along(kf, pf)
        return ki, kf, kg, ko, dc_of_dh, dc_of_dc

    def step_backward(self, params: PyTree, dstate: Arrays, slopes: Arrays) -> tuple[Arrays, Arrays]:
        dh, dc = dstate
        *_, dc_of_dh, dc_of_dc = slopes
        dc = dc + dh * dc_of_dh
        return (across(self._gate_deltas(dh, dc, slopes), params["wh"]), dc * dc_of_dc), (dh, dc)

    def _gate_deltas(self, dh: jax.Array, dc: jax.Array, slopes: Arrays) -> jax.Array:
        ki, kf, kg, ko, *_ = slopes
        return jnp.concatenate([dc * ki, dc * kf, dc * kg, dh * ko], -1)

    def pairs(
        self, x: jax.Array, before: Arrays, gates: Arrays, after: Arrays, slopes: Arrays, deltas: Arrays
    ) -> Pairs:
        h, c = before
        dh, dc = deltas
        dz = self._gate_deltas(dh, dc, slopes)
        pairs: Pairs = {"wx": (x, dz), "wh": (h, dz), "b": (None, dz)}
        if self.peephole:
            di, df, _, do = jnp.split(dz, 4, -1)
            pairs["peephole"] = None, jnp.concatenate([di * c, df * c, do * after[1]], -1)
        return pairs

    @classmethod
    def cases(cls) -> list[Case]:
        return [Case(LSTMCell(2, peephole=True), (shaped(5, 3), (shaped(5, 2), shaped(5, 2))))]


@dataclass(frozen=True)
class GRUCell(Cell):
    """Gated recurrent unit, with wx [3H, D], b [3H], gates r u n.

    reset: "after" the recurrent product (wh [3H, H] for r, u and n, and a bias bh [H] in it): one product a step.
    "before" it, as first published (wh [2H, H] for r and u, wn [H, H]): two products, the second waits for the first.
    """

    reset: Literal["after", "before"] = "after"

    @property
    def gates(self) -> int:
        """r u n, and with reset "after" also q, the product that is reset."""
        return 4 if self.reset == "after" else 3

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.reset not in ("after", "before"):
            raise unknown("GRUCell reset", self.reset, ("after", "before"))

    def init(self, key: jax.Array, spec: PyTree) -> PyTree:
        x, h, b, n = jax.random.split(key, 4)
        params = {"wx": self.matrix(x, self.w_init, 3, spec[0].shape[-1]), "b": self.bias(b, 3)}
        if self.reset == "before":
            params["wh"] = self.matrix(h, self.wh_init, 2, self.features)
            params["wn"] = self.matrix(n, self.wh_init, 1, self.features)
        else:
            params["wh"] = self.matrix(h, self.wh_init, 3, self.features)
            params["bh"] = self.bias(n, 1)
        return params

    def loop_weights(self, params: PyTree) -> PyTree:
        return params["wh"].T, params["wn"].T if self.reset == "before" else params["bh"]

    def step(self, weights: PyTree, state: Arrays, a: jax.Array) -> tuple[Arrays, Arrays]:
        (h,) = state
        ar, au, an = jnp.split(a, 3, -1)
        if self.reset == "before":
            wh, wn = weights
            hr, hu = jnp.split(across(h, wh), 2, -1)
            r = jax.nn.sigmoid(ar + hr)
            u = jax.nn.sigmoid(au + hu)
            n = jnp.tanh(an + across(r * h, wn))
            return (n + u * (h - n),), (r, u, n)
        wh, bh = weights
        hr, hu, hn = jnp.split(across(h, wh), 3, -1)
        r = jax.nn.sigmoid(ar + hr)
        u = jax.nn.sigmoid(au + hu)
        q = add_bias(hn, bh)
        n = jnp.tanh(an + r * q)
        return (n + u * (h - n),), (r, u, n, q)

    def slopes(self, params: PyTree, before: Arrays, gates: Arrays, after: Arrays) -> Arrays:
        (h,) = before
        r, u, n = gates[:3]
        kn = (1 - u) * (1 - n * n)
        ku = (h - n) * u * (1 - u)
        if self.reset == "before":
            return h * r * (1 - r), ku, kn, r, u
        q = gates[3]
        return jnp.concatenate([kn * q * r * (1 - r), ku, kn * r], -1), kn, u

    def step_backward(self, params: PyTree, dstate: Arrays, slopes: Arrays) -> tuple[Arrays, Arrays]:
        (dh,) = dstate
        if self.reset == "before":
            kr, ku, kn, r, u = slopes
            dn = dh * kn
            d = across(dn, params["wn"])
            dz = jnp.concatenate([d * kr, dh * ku], -1)
            return (across(dz, params["wh"]) + d * r + dh * u,), (dz, dn)
        k, _, u = slopes
        dz = k * jnp.concatenate([dh, dh, dh], -1)
        return (across(dz, params["wh"]) + dh * u,), (dh,)

    def pairs(
        self, x: jax.Array, before: Arrays, gates: Arrays, after: Arrays, slopes: Arrays, deltas: Arrays
    ) -> Pairs:
        (h,) = before
        if self.reset == "before":
            dz, dn = deltas
            da = jnp.concatenate([dz, dn], -1)
            return {"wx": (x, da), "b": (None, da), "wh": (h, dz), "wn": (gates[0] * h, dn)}
        (dh,) = deltas
        k, kn, _ = slopes
        dz = k * jnp.concatenate([dh, dh, dh], -1)
        dr, du, dq = jnp.split(dz, 3, -1)
        da = jnp.concatenate([dr, du, dh * kn], -1)
        return {"wx": (x, da), "b": (None, da), "wh": (h, dz), "bh": (None, dq)}

    @classmethod
    def cases(cls) -> list[Case]:
        return [Case(GRUCell(2, reset="before"), (shaped(5, 3), (shaped(5, 2),)))]
