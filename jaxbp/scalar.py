"""Backpropagation on single numbers: the smallest form of the idea that the rest of jaxbp applies to arrays.

Every operation makes a `Value` that keeps its result and, on an edge to each operand, the local derivative. The reverse
pass goes through the values from the last to the first and sends gradient * local derivative along every edge. What
meets at a value is added: the gradient is the sum over all paths, and the pass takes each edge once.

    x, w = Value(2.0, "x"), Value(-3.0, "w")
    y = (w * x).sigmoid()
    y.backward()            # w.gradient is dy / dw

Source: Linnainmaa 1970; in this form Griewank & Walther 2008, "Evaluating Derivatives", section 3.2.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from jaxbp.errors import InputError

Number = float | int


class Value:
    """A number, what it was computed from, and after `backward` the derivative of the result in it, `gradient`."""

    def __init__(self, data: Number, name: str = "") -> None:
        self.data = float(data)
        self.name = name
        self.gradient = 0.0
        self.edges: tuple[tuple[Value, float], ...] = ()  # (operand, d self / d operand)

    def __repr__(self) -> str:
        return f"Value({self.data:.10g}, {self.name!r}, gradient={self.gradient:.10g})"

    def __add__(self, other: Value | Number) -> Value:
        return _made("+", lambda a, b: (a + b, (1.0, 1.0)), self, other)

    def __sub__(self, other: Value | Number) -> Value:
        return _made("-", lambda a, b: (a - b, (1.0, -1.0)), self, other)

    def __mul__(self, other: Value | Number) -> Value:
        return _made("*", lambda a, b: (a * b, (b, a)), self, other)

    def __truediv__(self, other: Value | Number) -> Value:
        return _made("/", lambda a, b: (a / b, (1 / b, -a / b / b)), self, other)

    def __pow__(self, exponent: Value | Number) -> Value:
        if isinstance(exponent, Value):
            return (exponent * self.log()).exp()
        n = float(exponent)
        return _made(f"^{n:g}", lambda a: (math.pow(a, n), (n and n * math.pow(a, n - 1),)), self)

    def __neg__(self) -> Value:
        return _made("neg", lambda a: (-a, (-1.0,)), self)

    def __radd__(self, other: Number) -> Value:
        return Value(other) + self

    def __rsub__(self, other: Number) -> Value:
        return Value(other) - self

    def __rmul__(self, other: Number) -> Value:
        return Value(other) * self

    def __rtruediv__(self, other: Number) -> Value:
        return Value(other) / self

    def __rpow__(self, base: Number) -> Value:
        return Value(base) ** self

    def exp(self) -> Value:
        """e^x; its slope is itself."""
        return _made("exp", lambda a: (math.exp(a), (math.exp(a),)), self)

    def log(self) -> Value:
        """ln x, for x > 0; its slope is 1 / x."""
        return _made("log", lambda a: (math.log(a), (1 / a,)), self)

    def tanh(self) -> Value:
        """tanh x; its slope is 1 - tanh^2 x."""
        return _made("tanh", lambda a: (math.tanh(a), (1 - math.tanh(a) ** 2,)), self)

    def relu(self) -> Value:
        """max(x, 0); its slope is 1 above 0 and 0 elsewhere, at 0 too."""
        return _made("relu", lambda a: (max(a, 0.0), (float(a > 0),)), self)

    def sigmoid(self) -> Value:
        """s = 1 / (1 + e^-x); its slope is s (1 - s)."""

        def value(a: float) -> tuple[float, tuple[float, ...]]:
            e = math.exp(-abs(a))
            return (1.0 if a >= 0 else e) / (1 + e), (e / (1 + e) ** 2,)

        return _made("sigmoid", value, self)

    def order(self) -> list[Value]:
        """Every value that this one was computed from, and itself: operands before results."""
        ordered: dict[Value, None] = {}
        waiting = [(self, iter(self.edges))]
        while waiting:
            value, edges = waiting[-1]
            operand = next((operand for operand, _ in edges if operand not in ordered), None)
            if operand is None:
                ordered[value] = None
                waiting.pop()
            else:
                waiting.append((operand, iter(operand.edges)))
        return list(ordered)

    def backward(self) -> None:
        """Sets the gradient of every value in `order`. Gradients of an earlier pass are forgotten."""
        ordered = self.order()
        for value in ordered:
            value.gradient = 0.0
        self.gradient = 1.0
        for value in reversed(ordered):
            for operand, slope in value.edges:
                operand.gradient += value.gradient * slope


def paths(result: Value, start: Value) -> Iterator[tuple[list[Value], float]]:
    """Every path from `start` to `result`, with the product of its local derivatives. Their sum is start.gradient.

    Their number can double with every operation, so this is for small graphs.
    """
    waiting = [([result], 1.0)]
    while waiting:
        path, product = waiting.pop()
        if path[0] is start:
            yield path, product
        waiting += [([operand, *path], product * slope) for operand, slope in path[0].edges]


def _made(name: str, compute: Callable[..., tuple[float, tuple[float, ...]]], *operands: Value | Number) -> Value:
    """compute(*numbers) -> (value, local derivatives). Raises InputError where that is undefined or too large."""
    values = [operand if isinstance(operand, Value) else Value(operand) for operand in operands]
    try:
        data, slopes = compute(*(value.data for value in values))
    except (ArithmeticError, ValueError) as error:
        numbers = ", ".join(f"{value.data:g}" for value in values)
        raise InputError(f"{name} of {numbers} has no finite value or slope: {error}") from None
    result = Value(data, name)
    result.edges = tuple(zip(values, slopes, strict=True))
    return result
