"""Gradient functions as people write them: right ones, and each with one line rewritten the way it goes wrong.

The layers' corpus (proofs/faults.py) tampers with arrays, this one with source text. A rewrite is (line, what it
becomes, cause, a leaf whose gradient it spoils).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from jaxbp.check.report import Cause
from proofs.faults import HELD_OUT_SEED

Rewrite = tuple[str, str, Cause, str]


@dataclass(frozen=True)
class Planted:
    """A loss and its gradient by hand as source text, shapes of parameters and data, and the rewrites."""

    name: str
    source: str
    params: dict[str, tuple[int, ...]]
    data: Callable[[np.random.Generator], tuple]
    rewrites: tuple[Rewrite, ...]

    def functions(self, rewrite: Rewrite | None = None) -> tuple[Callable, Callable]:
        """(loss, gradient), the gradient rewritten."""
        text = self.source
        if rewrite is not None:
            line, becomes, _, _ = rewrite
            assert text.count(line) == 1, f"{self.name}: '{line}' occurs {text.count(line)} times"
            text = text.replace(line, becomes)
        space: dict = {"jax": jax, "jnp": jnp}
        exec(compile(text, f"{self.name}.py", "exec"), space)
        return space["loss"], space["gradient"]

    def inputs(self, seed: int = 0) -> tuple:
        """(params, *batch)."""
        draw = np.random.default_rng(seed)
        params = {name: 0.7 * draw.normal(size=shape) for name, shape in self.params.items()}
        return params, *self.data(draw)

    def held_out(self, rewrite: Rewrite) -> bool:
        """Whether the diagnosis was not made with this one."""
        text = f"{HELD_OUT_SEED}/{self.name}/{rewrite[1]}"
        return hashlib.sha256(text.encode()).digest()[0] < 26


MLP = Planted(
    "mlp",
    """
def forward(p, x):
    z1 = x @ p["w1"] + p["b1"]
    h1 = jnp.maximum(z1, 0)
    z2 = h1 @ p["w2"] + p["b2"]
    h2 = jnp.tanh(z2)
    z3 = h2 @ p["w3"] + p["b3"]
    h3 = jnp.maximum(z3, 0)
    return z1, h1, z2, h2, z3, h3, h3 @ p["w4"] + p["b4"]

def loss(p, x, y):
    return jnp.sum((forward(p, x)[-1] - y) ** 2) / (2 * x.shape[0])

def gradient(p, x, y):
    z1, h1, z2, h2, z3, h3, out = forward(p, x)
    d4 = (out - y) / x.shape[0]
    gw4 = h3.T @ d4
    gb4 = d4.sum(0)
    d3 = d4 @ p["w4"].T * (z3 > 0)
    gw3 = h2.T @ d3
    gb3 = d3.sum(0)
    d2 = d3 @ p["w3"].T * (1 - h2**2)
    gw2 = h1.T @ d2
    gb2 = d2.sum(0)
    d1 = d2 @ p["w2"].T * (z1 > 0)
    gw1 = x.T @ d1
    gb1 = d1.sum(0)
    return {"w1": gw1, "b1": gb1, "w2": gw2, "b2": gb2, "w3": gw3, "b3": gb3, "w4": gw4, "b4": gb4}
""",
    {"w1": (3, 4), "b1": (4,), "w2": (4, 4), "b2": (4,), "w3": (4, 4), "b3": (4,), "w4": (4, 2), "b4": (2,)},
    lambda r: (r.normal(size=(9, 3)), r.normal(size=(9, 2))),
    (
        ("d4 = (out - y) / x.shape[0]", "d4 = out - y", Cause.SUM, "w4"),
        ("d4 = (out - y) / x.shape[0]", "d4 = 2 * (out - y) / x.shape[0]", Cause.FACTOR, "w4"),
        ("d4 = (out - y) / x.shape[0]", "d4 = (y - out) / x.shape[0]", Cause.SIGN, "w4"),
        ("d4 = (out - y) / x.shape[0]", "d4 = (out - y) / out.size", Cause.FACTOR, "w4"),
        ("gb4 = d4.sum(0)", "gb4 = d4.mean(0)", Cause.MEAN, "b4"),
        ("gb4 = d4.sum(0)", "gb4 = d4.sum()", Cause.AXES, "b4"),
        ("gb4 = d4.sum(0)", "gb4 = d4", Cause.BROADCAST, "b4"),
        ("gb4 = d4.sum(0)", "gb4 = d4[-1]", Cause.OVERWRITTEN, "b4"),
        ("gb3 = d3.sum(0)", "gb3 = d3.sum(0, keepdims=True)", Cause.BROADCAST, "b3"),
        ("gb3 = d3.sum(0)", "gb3 = jnp.zeros(4)", Cause.ZERO, "b3"),
        ("gb3 = d3.sum(0)", "gb3 = None", Cause.MISSING, "b3"),
        ("gb3 = d3.sum(0)", "gb3 = d3[:-1].sum(0)", Cause.DROPPED, "b3"),
        ("(z3 > 0)", "1", Cause.DERIVATIVE, "w3"),
        ("(z3 > 0)", "(z1 > 0)", Cause.MASK, "w3"),
        ("(1 - h2**2)", "1", Cause.DERIVATIVE, "w2"),
        ("(1 - h2**2)", "(1 - z2**2)", Cause.POINT, "w2"),
        ("(1 - h2**2)", "(1 - jnp.tanh(h2) ** 2)", Cause.POINT, "w2"),
        ("(z1 > 0)", "(z3 > 0)", Cause.MASK, "w1"),
        ('d3 @ p["w3"].T', 'd3 @ p["w3"]', Cause.TRANSPOSED, "w2"),
        ('d2 @ p["w2"].T', 'd2 @ p["w2"]', Cause.TRANSPOSED, "w1"),
        ("gw3 = h2.T @ d3", "gw3 = (h2.T @ d3).T", Cause.TRANSPOSED, "w3"),
        ("gw2 = h1.T @ d2", "gw2 = h1.T @ d2 / len(x)", Cause.MEAN, "w2"),
        ("gw2 = h1.T @ d2", "gw2 = h1[:-1].T @ d2[:-1]", Cause.DROPPED, "w2"),
        ("gw1 = x.T @ d1", "gw1 = -0.1 * x.T @ d1", Cause.FACTOR, "w1"),
        ("gw1 = x.T @ d1", 'gw1 = x.T @ d1 + 0.01 * p["w1"]', Cause.PENALTY, "w1"),
        ('"w2": gw2, "b2": gb2, "w3": gw3', '"w2": gw3, "b2": gb2, "w3": gw2', Cause.SWAPPED, "w2"),
        ("gw1 = x.T @ d1", "gw1 = (x.T @ d1).astype(jnp.float32)", Cause.PRECISION, "w1"),
    ),
)

SOFTMAX = Planted(
    "softmax",
    """
def loss(p, x, y):
    return -jnp.mean(jnp.sum(y * jax.nn.log_softmax(x @ p["w"].T + p["b"]), -1))

def gradient(p, x, y):
    s = jax.nn.softmax(x @ p["w"].T + p["b"])
    d = (s - y) / len(x)
    gw = d.T @ x
    gb = d.sum(0)
    return {"w": gw, "b": gb}
""",
    {"w": (3, 5), "b": (3,)},
    lambda r: (r.normal(size=(7, 5)), np.eye(3)[r.integers(0, 3, 7)]),
    (
        ("d = (s - y) / len(x)", "d = s - y", Cause.SUM, "w"),
        ("d = (s - y) / len(x)", "d = (y - s) / len(x)", Cause.SIGN, "w"),
        ("gw = d.T @ x", "gw = (x.T @ d)", Cause.TRANSPOSED, "w"),
        ("gb = d.sum(0)", "gb = d.sum(1)", Cause.BROADCAST, "b"),
        ("gw = d.T @ x", "gw = d[:-1].T @ x[:-1]", Cause.DROPPED, "w"),
        ("gb = d.sum(0)", "gb = d.sum(0) * 1.001", Cause.FACTOR, "b"),
    ),
)

RNN = Planted(
    "rnn",
    """
def states(p, x):
    def step(h, x_t):
        h = jnp.tanh(x_t @ p["wx"] + h @ p["wh"] + p["b"])
        return h, h
    return jax.lax.scan(step, jnp.zeros((x.shape[1], 4)), x)[1]

def loss(p, x, y):
    return 0.5 * jnp.sum((states(p, x) @ p["wy"] - y) ** 2)

def gradient(p, x, y):
    hs = states(p, x)
    dout = hs @ p["wy"] - y
    gwy = jnp.einsum("tnh,tno->ho", hs, dout)
    before = jnp.concatenate([jnp.zeros_like(hs[:1]), hs[:-1]])
    gwx, gwh, gb = jnp.zeros((3, 4)), jnp.zeros((4, 4)), jnp.zeros(4)
    carry = jnp.zeros_like(hs[0])
    for t in reversed(range(len(x))):
        dh = dout[t] @ p["wy"].T + carry
        dz = dh * (1 - hs[t] ** 2)
        gwx = gwx + x[t].T @ dz
        gwh = gwh + before[t].T @ dz
        gb = gb + dz.sum(0)
        carry = dz @ p["wh"].T
    return {"wx": gwx, "wh": gwh, "b": gb, "wy": gwy}
""",
    {"wx": (3, 4), "wh": (4, 4), "b": (4,), "wy": (4, 2)},
    lambda r: (r.normal(size=(6, 5, 3)), r.normal(size=(6, 5, 2))),
    (
        ("gwh = gwh + before[t].T @ dz", "gwh = gwh + hs[t].T @ dz", Cause.SHIFTED, "wh"),
        ("gwx = gwx + x[t].T @ dz", "gwx = gwx + x[t - 1].T @ dz", Cause.SHIFTED, "wx"),
        ("gwh = gwh + before[t].T @ dz", "gwh = before[t].T @ dz", Cause.OVERWRITTEN, "wh"),
        ("gb = gb + dz.sum(0)", "gb = dz.sum(0)", Cause.OVERWRITTEN, "b"),
        ("reversed(range(len(x)))", "reversed(range(len(x) - 1))", Cause.LAST_STEP, "wx"),
        ("reversed(range(len(x)))", "reversed(range(1, len(x)))", Cause.LAST_STEP, "wx"),
        ('carry = dz @ p["wh"].T', "carry = jnp.zeros_like(dz)", Cause.PATH, "wx"),
        ('carry = dz @ p["wh"].T', 'carry = dz @ p["wh"]', Cause.TRANSPOSED, "wx"),
        ('carry = dz @ p["wh"].T', 'carry = dh @ p["wh"].T', Cause.UNKNOWN, "wx"),
        ("(1 - hs[t] ** 2)", "1", Cause.DERIVATIVE, "wx"),
        (
            'dout[t] @ p["wy"].T + carry',
            'jnp.where(t == len(x) - 1, dout[t] @ p["wy"].T, 0) + carry',
            Cause.OVERWRITTEN,
            "wx",
        ),
        ('"tnh,tno->ho", hs, dout)', '"tnh,tno->ho", hs, dout) / 5', Cause.MEAN, "wy"),
        (
            'gwy = jnp.einsum("tnh,tno->ho", hs, dout)',
            'gwy = jnp.einsum("tnh,tno->ho", hs[:-1], dout[:-1])',
            Cause.LAST_STEP,
            "wy",
        ),
    ),
)

LSTM = Planted(
    "lstm",
    """
def gates(p, x_t, h, c):
    i, f, g, o = jnp.split(x_t @ p["wx"] + h @ p["wh"] + p["b"], 4, -1)
    i, f, g, o = jax.nn.sigmoid(i), jax.nn.sigmoid(f), jnp.tanh(g), jax.nn.sigmoid(o)
    c = f * c + i * g
    return o * jnp.tanh(c), c, (i, f, g, o)

def loss(p, x, y):
    def step(hc, x_t):
        h, c, _ = gates(p, x_t, *hc)
        return (h, c), h
    start = jnp.zeros((x.shape[1], 3))
    return 0.5 * jnp.sum((jax.lax.scan(step, (start, start), x)[1] - y) ** 2)

def gradient(p, x, y):
    h = c = jnp.zeros((x.shape[1], 3))
    kept = []
    for x_t in x:
        h_new, c_new, ifgo = gates(p, x_t, h, c)
        kept.append((h, c, h_new, c_new, ifgo))
        h, c = h_new, c_new
    grads = {"wx": jnp.zeros((2, 12)), "wh": jnp.zeros((3, 12)), "b": jnp.zeros(12)}
    dh = dc = jnp.zeros_like(h)
    for t in reversed(range(len(x))):
        h0, c0, h1, c1, (i, f, g, o) = kept[t]
        dh = dh + h1 - y[t]
        do = dh * jnp.tanh(c1)
        dc = dc + dh * o * (1 - jnp.tanh(c1) ** 2)
        di, df, dg = dc * g, dc * c0, dc * i
        dz = jnp.concatenate([di * i * (1 - i), df * f * (1 - f), dg * (1 - g**2), do * o * (1 - o)], -1)
        grads = {"wx": grads["wx"] + x[t].T @ dz, "wh": grads["wh"] + h0.T @ dz, "b": grads["b"] + dz.sum(0)}
        dh, dc = dz @ p["wh"].T, dc * f
    return grads
""",
    {"wx": (2, 12), "wh": (3, 12), "b": (12,)},
    lambda r: (r.normal(size=(4, 5, 2)), r.normal(size=(4, 5, 3))),
    (
        ("[di * i * (1 - i), df * f * (1 - f),", "[df * f * (1 - f), di * i * (1 - i),", Cause.ORDER, "wx"),
        (
            "return grads",
            'return grads | {"b": jnp.concatenate([grads["b"][3:6], grads["b"][:3], grads["b"][6:]])}',
            Cause.ORDER,
            "b",
        ),
        ("return grads", 'return grads | {"wh": jnp.roll(grads["wh"], 3, 1)}', Cause.ORDER, "wh"),
        ('dh, dc = dz @ p["wh"].T, dc * f', 'dh, dc = dz @ p["wh"].T, jnp.zeros_like(dc)', Cause.PATH, "wx"),
        ('dh, dc = dz @ p["wh"].T, dc * f', "dh, dc = jnp.zeros_like(dh), dc * f", Cause.PATH, "wx"),
        ('"wh": grads["wh"] + h0.T @ dz', '"wh": grads["wh"] + h1.T @ dz', Cause.SHIFTED, "wh"),
        ("dg * (1 - g**2)", "dg", Cause.DERIVATIVE, "wx"),
        ("do * o * (1 - o)", "do", Cause.DERIVATIVE, "wx"),
        ("(1 - jnp.tanh(c1) ** 2)", "1", Cause.DERIVATIVE, "wx"),
        ("(1 - jnp.tanh(c1) ** 2)", "(1 - c1**2)", Cause.POINT, "wx"),
        ("dc = dc + dh * o", "dc = dh * o", Cause.PATH, "wx"),
        ("reversed(range(len(x)))", "reversed(range(len(x) - 1))", Cause.LAST_STEP, "wx"),
    ),
)

CONVOLUTION = Planted(
    "convolution",
    """
def conv(x, w):
    return jax.lax.conv_general_dilated(x, w, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))

def loss(p, x, y):
    h = jnp.tanh(conv(x, p["w1"]) + p["b1"])
    return jnp.mean((conv(h, p["w2"]) + p["b2"] - y) ** 2)

def kernel_gradient(x, d, shape):
    out = jnp.zeros(shape)
    for i in range(shape[0]):
        for j in range(shape[1]):
            out = out.at[i, j].set(jnp.einsum("nhwi,nhwo->io", x[:, i:i + d.shape[1], j:j + d.shape[2]], d))
    return out

def gradient(p, x, y):
    h = jnp.tanh(conv(x, p["w1"]) + p["b1"])
    d2 = 2 * (conv(h, p["w2"]) + p["b2"] - y) / y.size
    kh, kw = p["w2"].shape[:2]
    full = jnp.pad(d2, ((0, 0), (kh - 1, kh - 1), (kw - 1, kw - 1), (0, 0)))
    dh = conv(full, p["w2"][::-1, ::-1].swapaxes(2, 3))
    d1 = dh * (1 - h**2)
    gw2 = kernel_gradient(h, d2, p["w2"].shape)
    gb2 = d2.sum((0, 1, 2))
    gw1 = kernel_gradient(x, d1, p["w1"].shape)
    gb1 = d1.sum((0, 1, 2))
    return {"w1": gw1, "b1": gb1, "w2": gw2, "b2": gb2}
""",
    {"w1": (3, 2, 2, 3), "b1": (3,), "w2": (2, 3, 3, 2), "b2": (2,)},
    lambda r: (r.normal(size=(5, 7, 8, 2)), r.normal(size=(5, 4, 5, 2))),
    (
        ('p["w2"][::-1, ::-1].swapaxes(2, 3)', 'p["w2"].swapaxes(2, 3)', Cause.FLIPPED, "w1"),
        (
            'gw2 = kernel_gradient(h, d2, p["w2"].shape)',
            'gw2 = kernel_gradient(h, d2, p["w2"].shape)[::-1, ::-1]',
            Cause.FLIPPED,
            "w2",
        ),
        ("(1 - h**2)", "1", Cause.DERIVATIVE, "w1"),
        ("gb1 = d1.sum((0, 1, 2))", "gb1 = d1.mean((0, 1, 2))", Cause.MEAN, "b1"),
        ("gb2 = d2.sum((0, 1, 2))", "gb2 = d2.sum(0)", Cause.BROADCAST, "b2"),
        ("gb2 = d2.sum((0, 1, 2))", "gb2 = d2.sum((0, 1, 2)) / len(x)", Cause.MEAN, "b2"),
        ("/ y.size", "/ len(y)", Cause.FACTOR, "w2"),
        (
            'gw1 = kernel_gradient(x, d1, p["w1"].shape)',
            'gw1 = kernel_gradient(x[:-1], d1[:-1], p["w1"].shape)',
            Cause.DROPPED,
            "w1",
        ),
    ),
)

EMBEDDING = Planted(
    "embedding",
    """
def loss(p, ids, y):
    h = p["table"][ids]
    z = (h - h.mean(-1, keepdims=True)) @ p["w"]
    return jnp.sum((jax.nn.sigmoid(z) - y) ** 2) / len(ids)

def gradient(p, ids, y):
    h = p["table"][ids]
    c = h - h.mean(-1, keepdims=True)
    s = jax.nn.sigmoid(c @ p["w"])
    dz = 2 * (s - y) / len(ids) * s * (1 - s)
    gw = jnp.einsum("nti,nto->io", c, dz)
    dc = dz @ p["w"].T
    dh = dc - dc.mean(-1, keepdims=True)
    gt = jnp.zeros_like(p["table"]).at[ids].add(dh)
    return {"table": gt, "w": gw}
""",
    {"table": (6, 4), "w": (4, 2)},
    lambda r: (np.array([[0, 1, 1], [2, 1, 5], [2, 0, 3], [4, 4, 1], [5, 0, 2]]), r.normal(size=(5, 3, 2))),
    (
        (".at[ids].add(dh)", ".at[ids].set(dh)", Cause.OVERWRITTEN, "table"),
        ("dh = dc - dc.mean(-1, keepdims=True)", "dh = dc", Cause.PATH, "table"),
        ("* s * (1 - s)", "", Cause.DERIVATIVE, "w"),
        ("2 * (s - y)", "(s - y)", Cause.FACTOR, "w"),
        ('gw = jnp.einsum("nti,nto->io", c, dz)', 'gw = jnp.einsum("nti,nto->io", h, dz)', Cause.OPERAND, "w"),
        ('gw = jnp.einsum("nti,nto->io", c, dz)', 'gw = jnp.einsum("nti,nto->io", c, dz) / 3', Cause.MEAN, "w"),
        (
            "dh = dc - dc.mean(-1, keepdims=True)",
            "dh = dc - dc.mean(-1, keepdims=True)\n    dh = dh.at[:, -1].set(0)",
            Cause.LAST_STEP,
            "table",
        ),
    ),
)

ALL = (MLP, SOFTMAX, RNN, LSTM, CONVOLUTION, EMBEDDING)
