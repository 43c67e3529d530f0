"""NumPy code in classes is followed as that in functions is, and what goes wrong in it has the user's line."""

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbp.check import check_gradient
from jaxbp.check.numpy_trace import traceable

rng = np.random.default_rng(0)
X, PARAMS = rng.normal(size=(5, 3)), {"w": rng.normal(size=(3, 3))}


class Cell:
    size = 3

    def __init__(self, w):
        self.w = w
        self.states = []

    def step(self, x, h):
        h = np.tanh(x + h @ self.w)
        self.states.append(h)
        return h


class Recurrent(Cell):
    """It calls its base class, and writes into a new array."""

    def __init__(self, w):
        super().__init__(w)
        self.total = np.zeros(self.size)

    def run(self, xs):
        h = np.zeros(self.size)
        for x in xs:
            h = self.step(x, h)
            self.total += h**2
        return self.total


@dataclass
class Sums:
    parts: list = field(default_factory=list)

    def add(self, part):
        self.parts.append(part)

    def all(self):
        out = np.zeros(len(self.parts))
        for i, part in enumerate(self.parts):
            out[i] = part
        return out


class Statics:
    @property
    def scale(self):
        return 0.5

    @staticmethod
    def square(a):
        return a * a

    def value(self, a):
        out = np.zeros_like(a)
        out[...] = self.square(a)
        return self.scale * out


class Itself:
    """It makes another of its own class, and compares by it."""

    def __init__(self, w, depth=2):
        self.w, self.inner = w, Itself(w, depth - 1) if depth else None

    def value(self, x):
        out = np.zeros(x.shape)
        out += np.sin(x @ self.w)
        return self.inner.value(out) if isinstance(self.inner, Itself) else out


class WithGradient:
    def __init__(self, w):
        self.w = w

    def forward(self, x):
        self.x, self.y = x, 1 / (1 + np.exp(-(x @ self.w)))
        return self.y

    def backward(self, dy, wrong):
        dw = np.zeros_like(self.w)
        for x, y, d in zip(self.x, self.y, dy, strict=True):
            dw += np.outer(x, d if wrong else d * y * (1 - y))
        return {"w": dw}


def by_sums(params, x):
    sums = Sums()
    for row in x:
        sums.add(np.sum(np.sin(row @ params["w"])))
    return np.sum(sums.all() ** 2)


VALUES = {
    "a base class": lambda params, x: np.sum(Recurrent(params["w"]).run(x)),
    "a dataclass": by_sums,
    "a property and a static method": lambda params, x: np.sum(Statics().value(x @ params["w"])),
    "a class that makes itself": lambda params, x: np.sum(Itself(params["w"]).value(x)),
    "forward and backward": lambda params, x: np.sum(WithGradient(params["w"]).forward(x) ** 2),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", VALUES)
def test_a_class_is_followed(name):
    value = VALUES[name]
    derivative = jax.grad(traceable(value))
    report = check_gradient(lambda params, x: derivative(params, jnp.asarray(x)), value, PARAMS, X)
    assert report.passed, str(report)
    assert report["w"].error < 1e-14


@pytest.mark.slow
def test_a_mistake_in_a_class_is_named_with_its_line():
    def gradient(params, x, wrong):
        net = WithGradient(params["w"])
        return net.backward(2 * net.forward(x), wrong)

    loss = VALUES["forward and backward"]
    assert check_gradient(lambda params, x: gradient(params, x, False), loss, PARAMS, X).passed
    report = str(check_gradient(lambda params, x: gradient(params, x, True), loss, PARAMS, X))
    assert "the derivative is left out" in report
    assert "test_numpy_classes.py" in report
    assert "mixins.py" not in report


def test_a_class_of_a_library_is_left_as_it_is():
    value = lambda params, x: np.sum(np.poly1d([1.0, 0.0])(x @ params["w"])) * 1.0
    assert check_gradient(lambda params, x: {"w": x.T @ np.ones((5, 3))}, value, PARAMS, X).passed
