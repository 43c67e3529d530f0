"""Functions with a derivative by hand, right and wrong, of the kinds that set gradient checks apart.

    complex          a conjugate too many or too few, in JAX's convention: <dy, J v> without conjugates
    forward          the rule of forward mode is wrong, that of reverse mode is right
    options          wrong under an option that is off by default
    kinks            outside the one-sided slopes
    wrong autodiff   the value that autodiff gives where it is wrong
    not repeatable   value or gradient differ from call to call

Each is written for NumPy and for jax.numpy, as `xp`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from proofs.hard_points import Point, kinks, near_ties, smooth, whole

Arrays = tuple[Any, ...]


@dataclass(frozen=True)
class Rule:
    """value(xp, *arguments, **options), and its derivative: backward(xp, arguments, dy, **options), or forward."""

    kind: str
    name: str
    right: bool
    value: Callable
    backward: Callable[..., Arrays]
    arguments: Arrays
    forward: Callable[..., Any] | None = None  # (xp, arguments, tangents)
    options: dict[str, list] = field(default_factory=dict)  # name -> values, the default first


# Complex numbers.

COMPLEX: list[tuple[str, Callable, Callable, int]] = [  # value and backward of `count` leaves
    ("square", lambda xp, z: z * z, lambda xp, a, dy: (2 * a[0] * dy,), 1),
    ("exp", lambda xp, z: xp.exp(z), lambda xp, a, dy: (xp.exp(a[0]) * dy,), 1),
    ("product", lambda xp, z, w: z * w, lambda xp, a, dy: (a[1] * dy, a[0] * dy), 2),
    ("inner product", lambda xp, z, w: xp.conj(z) * w, lambda xp, a, dy: (xp.conj(dy * a[1]), xp.conj(a[0]) * dy), 2),
    ("energy", lambda xp, z: xp.real(z * xp.conj(z)), lambda xp, a, dy: (2 * xp.conj(a[0]) * dy,), 1),
    ("matrix product", lambda xp, z, w: z @ w, lambda xp, a, dy: (dy @ a[1].T, a[0].T @ dy), 2),
    ("modulus", lambda xp, z: xp.abs(z), lambda xp, a, dy: (xp.conj(a[0]) / xp.abs(a[0]) * dy,), 1),
    ("inverse", lambda xp, z: 1 / z, lambda xp, a, dy: (-dy / a[0] ** 2,), 1),
]


def complex_rules() -> Iterator[Rule]:
    draw = np.random.default_rng(0)
    for name, value, backward, count in COMPLEX:
        arguments = tuple(draw.normal(size=(3, 3)) + 1j * draw.normal(size=(3, 3)) for _ in range(count))
        conjugated = lambda xp, a, dy, b=backward: tuple(map(xp.conj, b(xp, a, dy)))
        at_conjugates = lambda xp, a, dy, b=backward: b(xp, tuple(map(xp.conj, a)), dy)
        of_real = lambda xp, a, dy, b=backward: tuple(xp.real(g) + 0j for g in b(xp, a, dy))
        yield Rule("complex", name, True, value, backward, arguments)
        for mistake, wrong in (("conjugated", conjugated), ("at the conjugate", at_conjugates), ("real part", of_real)):
            yield Rule("complex", f"{name}, {mistake}", False, value, wrong, arguments)


# Forward mode.


def softmax(xp: Any, a: Any) -> Any:
    return xp.exp(a) / xp.sum(xp.exp(a))


FORWARD: list[tuple[str, Callable, Callable, Callable, list[Callable], int]] = [
    (  # value, right backward, right forward, wrong forwards, count of leaves
        "tanh",
        lambda xp, a: xp.tanh(a),
        lambda xp, a, dy: (dy * (1 - xp.tanh(a[0]) ** 2),),
        lambda xp, a, v: v[0] * (1 - xp.tanh(a[0]) ** 2),
        [lambda xp, a, v: v[0] * (1 - xp.tanh(a[0])), lambda xp, a, v: v[0] * (1 - xp.tanh(xp.tanh(a[0])) ** 2)],
        1,
    ),
    (
        "product",
        lambda xp, a, b: a * b,
        lambda xp, a, dy: (dy * a[1], dy * a[0]),
        lambda xp, a, v: v[0] * a[1] + v[1] * a[0],
        [lambda xp, a, v: v[0] * a[1], lambda xp, a, v: v[0] * a[1] - v[1] * a[0]],
        2,
    ),
    (
        "softmax",
        softmax,
        lambda xp, a, dy: (softmax(xp, a[0]) * (dy - xp.sum(softmax(xp, a[0]) * dy)),),
        lambda xp, a, v: softmax(xp, a[0]) * (v[0] - xp.sum(softmax(xp, a[0]) * v[0])),
        [
            lambda xp, a, v: softmax(xp, a[0]) * (1 - softmax(xp, a[0])) * v[0],
            lambda xp, a, v: softmax(xp, a[0]) * v[0],
        ],
        1,
    ),
    (
        "norm",
        lambda xp, a: xp.sqrt(xp.sum(a * a)),
        lambda xp, a, dy: (dy * a[0] / xp.sqrt(xp.sum(a[0] ** 2)),),
        lambda xp, a, v: xp.sum(a[0] * v[0]) / xp.sqrt(xp.sum(a[0] ** 2)),
        [lambda xp, a, v: xp.sum(a[0] * v[0]), lambda xp, a, v: 2 * xp.sum(a[0] * v[0]) / xp.sqrt(xp.sum(a[0] ** 2))],
        1,
    ),
    (
        "matrix product",
        lambda xp, a, b: a @ b,
        lambda xp, a, dy: (dy @ a[1].T, a[0].T @ dy),
        lambda xp, a, v: v[0] @ a[1] + a[0] @ v[1],
        [lambda xp, a, v: v[0] @ a[1] + v[1] @ a[0], lambda xp, a, v: a[0] @ v[1]],
        2,
    ),
]


def forward_rules() -> Iterator[Rule]:
    draw = np.random.default_rng(1)
    for name, value, backward, right, wrong, count in FORWARD:
        arguments = tuple(draw.normal(size=(3, 3)) for _ in range(count))
        yield Rule("forward mode", name, True, value, backward, arguments, right)
        for i, rule in enumerate(wrong):
            yield Rule("forward mode", f"{name}, {i}", False, value, backward, arguments, rule)


# Options.

KEEP = np.array([[1.0, 0, 1], [1, 1, 0], [0, 1, 1]])
CAUSAL = np.tri(3) > 0


def cap(xp: Any, a: Any, cap: float | None = None) -> Any:
    return a if cap is None else cap * xp.tanh(a / cap)


def drop(xp: Any, a: Any, rate: float = 0.0) -> Any:
    return a**2 if rate == 0 else a**2 * KEEP / (1 - rate)


def mask(xp: Any, a: Any, causal: bool = False) -> Any:
    e = xp.where(CAUSAL, xp.exp(a), 0.0) if causal else xp.exp(a)
    return e / xp.sum(e, axis=1, keepdims=True)


def centre(xp: Any, a: Any, centred: bool = False) -> Any:
    return (a - xp.mean(a)) ** 2 if centred else a**2


def scale(xp: Any, a: Any, b: Any, temperature: float = 1.0) -> Any:
    return xp.sin(a @ b / temperature)


def mask_backward(xp: Any, a: Arrays, dy: Any, causal: bool) -> Arrays:
    s = mask(xp, a[0], causal)
    return (s * (dy - xp.sum(s * dy, axis=1, keepdims=True)),)


def centre_backward(xp: Any, a: Arrays, dy: Any, centred: bool = False) -> Arrays:
    g = 2 * dy * (a[0] - xp.mean(a[0]) if centred else a[0])
    return (g - xp.mean(g) if centred else g,)


def scale_backward(xp: Any, a: Arrays, dy: Any, temperature: float = 1.0) -> Arrays:
    g = dy * xp.cos(a[0] @ a[1] / temperature) / temperature
    return g @ a[1].T, a[0].T @ g


OPTIONS: list[tuple[str, Callable, dict[str, list], Callable, Callable, int]] = [
    (
        "soft cap",
        cap,
        {"cap": [None, 2.0]},
        lambda xp, a, dy, cap=None: (dy if cap is None else dy * (1 - xp.tanh(a[0] / cap) ** 2),),
        lambda xp, a, dy, cap=None: (dy,),
        1,
    ),
    (
        "dropout",
        drop,
        {"rate": [0.0, 0.3]},
        lambda xp, a, dy, rate=0.0: (2 * a[0] * dy * (1 if rate == 0 else KEEP / (1 - rate)),),
        lambda xp, a, dy, rate=0.0: (2 * a[0] * dy * (1 if rate == 0 else KEEP),),
        1,
    ),
    (
        "causal mask",
        mask,
        {"causal": [False, True]},
        lambda xp, a, dy, causal=False: mask_backward(xp, a, dy, causal),
        lambda xp, a, dy, causal=False: mask_backward(xp, a, dy, False),
        1,
    ),
    (
        "centred",
        centre,
        {"centred": [False, True]},
        centre_backward,
        lambda xp, a, dy, centred=False: (2 * dy * (a[0] - xp.mean(a[0]) * centred) * 1.5**centred,),
        1,
    ),
    (
        "temperature",
        scale,
        {"temperature": [1.0, 3.0]},
        scale_backward,
        lambda xp, a, dy, temperature=1.0: tuple(g * temperature for g in scale_backward(xp, a, dy, temperature)),
        2,
    ),
]


def option_rules() -> Iterator[Rule]:
    draw = np.random.default_rng(2)
    for name, value, options, right, wrong, count in OPTIONS:
        arguments = tuple(draw.normal(size=(3, 3)) for _ in range(count))
        yield Rule("options", name, True, value, right, arguments, options=options)
        yield Rule("options", f"{name} ignored", False, value, wrong, arguments, options=options)


# Points on kinks, and where autodiff is wrong.


def of_point(kind: str, point: Point, gradient: np.ndarray, right: bool, number: int) -> Rule:
    """A point of the hard ones, as a function with a rule."""
    backward = lambda xp, a, dy: (dy * gradient,)
    return Rule(kind, f"{point.name}, {number}", right, lambda xp, a: point.loss(a), backward, (point.a,))


def kink_rules() -> Iterator[Rule]:
    for point in (*kinks((jnp,)), *near_ties()):
        if "times 1e-06" not in point.name and "times 1e+06" not in point.name:
            for right, gradients in ((True, point.right), (False, point.wrong)):
                yield from (of_point("kinks", point, g, right, i) for i, g in enumerate(gradients))


def autodiff_rules() -> Iterator[Rule]:
    """The right gradient, and autodiff's, where they differ."""
    for point in (*smooth(), *whole()):
        if point.name.endswith("jax.numpy") and "times 1e" not in point.name.replace("times 1e+00", ""):
            (right,) = point.right
            autodiff = np.asarray(jax.grad(point.loss)(jnp.asarray(point.a)))
            if not np.allclose(autodiff, right, rtol=1e-6, atol=1e-6 * np.abs(right).max()):
                yield of_point("wrong autodiff", point, right, True, 0)
                yield of_point("wrong autodiff", point, autodiff, False, 1)


# Functions that do not repeat themselves.


def repeat_rules() -> Iterator[Rule]:
    """What is drawn anew at every call, by NumPy's generator; the right twins draw nothing."""
    draw = np.random.default_rng(3)
    a = (draw.normal(size=(4, 3)),)
    backward = lambda xp, a, dy: (2 * a[0] * dy,)
    yield Rule("not repeatable", "square", True, lambda xp, a: xp.sum(a * a), backward, a)
    yield Rule("not repeatable", "fixed mask", True, lambda xp, a: xp.sum(a * a * KEEP[:1]), masked, a)
    for size in (1e-1, 1e-3, 1e-6, 1e-9):
        noisy = lambda xp, a, size=size: xp.sum(a * a) + size * draw.normal()
        noise = lambda xp, a, dy, size=size: (2 * a[0] * dy + size * draw.normal(size=a[0].shape),)
        yield Rule("not repeatable", f"noise of {size:g} in the value", False, noisy, backward, a)
        yield Rule("not repeatable", f"noise of {size:g} in the gradient", False, lambda xp, a: xp.sum(a * a), noise, a)
    dropped = lambda xp, a: xp.sum(a * a * (draw.uniform(size=a.shape) < 0.8))
    yield Rule("not repeatable", "dropout without a key", False, dropped, backward, a)
    anew = lambda xp, a, dy: (2 * a[0] * dy * (draw.uniform(size=a[0].shape) < 0.8),)
    yield Rule("not repeatable", "a mask drawn anew", False, dropped, anew, a)


def masked(xp: Any, a: Arrays, dy: Any) -> Arrays:
    return (2 * a[0] * dy * KEEP[:1],)


def rules() -> list[Rule]:
    """All of them."""
    kinds = (complex_rules, forward_rules, option_rules, kink_rules, autodiff_rules, repeat_rules)
    return [rule for kind in kinds for rule in kind()]
