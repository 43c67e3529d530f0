"""A torch.autograd.Function, or a PyTorch module with one inside: NumPy in and out, central differences for truth.

PyTorch is not imported here: whoever has a function of it has imported it.
"""

from __future__ import annotations

import copy
import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxbp.check.calls import first_line
from jaxbp.check.leaves import Gradient, Leaves, cotangent, dtypes_of, is_float, split
from jaxbp.check.problem import Problem
from jaxbp.core import PyTree
from jaxbp.errors import InputError


def is_torch_function(function: Any) -> bool:
    """Whether it is a class derived from torch.autograd.Function."""
    torch: Any = sys.modules.get("torch")
    return bool(torch) and isinstance(function, type) and issubclass(function, torch.autograd.Function)


def is_torch_module(module: Any) -> bool:
    """Whether it is a torch.nn.Module."""
    torch: Any = sys.modules.get("torch")
    return bool(torch) and isinstance(module, torch.nn.Module)


def torch_function_problem(function: Any, arguments: tuple, reference: Callable | None = None) -> Problem:
    """function.apply(*arguments) against differences of itself, or of the plain `reference`. Arrays or tensors."""
    names = [name for name in inspect.signature(function.forward).parameters if name != "ctx"]
    names = names if len(names) >= len(arguments) else [f"argument{i}" for i in range(len(arguments))]
    return _problem(function.__name__, function.apply, dict(zip(names, arguments, strict=False)), reference)


def torch_module_problem(
    module: Any, inputs: tuple, keywords: Mapping[str, Any], moved: Callable[[np.ndarray], np.ndarray]
) -> Problem:
    """A module as a function of its parameters, each of them moved, and its inputs, in float64."""
    torch: Any = sys.modules["torch"]
    double = copy.deepcopy(module).double()
    params = {name: moved(p.detach().numpy()) for name, p in module.named_parameters()}
    names = list(inspect.signature(module.forward).parameters)
    names = names if len(names) >= len(inputs) else [f"input{i}" for i in range(len(inputs))]

    def call(params: dict, *inputs: Any) -> Any:
        return torch.func.functional_call(double, params, inputs, dict(keywords))

    return _problem(type(module).__name__, call, {"params": params} | dict(zip(names, inputs, strict=False)), None)


def call_torch_module(module: Any, inputs: tuple, keywords: Mapping[str, Any]) -> Any:
    """The module on arrays or tensors, as its user calls it."""
    torch: Any = sys.modules["torch"]
    return module(*_mapped(inputs, lambda a: torch.as_tensor(np.asarray(a)) if is_array(a) else a), **keywords)


def is_array(a: Any) -> bool:
    """Whether it is a NumPy or JAX array."""
    return isinstance(a, np.ndarray | jax.Array)


def _problem(name: str, call: Callable, arguments: dict[str, Any], reference: Callable | None) -> Problem:
    torch: Any = sys.modules["torch"]
    tree = _mapped(arguments, lambda a: a.detach().numpy() if isinstance(a, torch.Tensor) else a)
    dtypes = dtypes_of(tree)
    leaves, rebuild = split(_mapped(tree, lambda a: np.asarray(a, np.float64) if is_float(a) else a), "arguments")
    tensor = lambda a: torch.tensor(np.asarray(a)) if is_array(a) else a

    def outputs(function: Callable, leaves: dict[str, Any]) -> list:
        rebuilt = _mapped(rebuild(leaves), tensor)
        result = function(*(rebuilt[name] for name in arguments))
        results = result if isinstance(result, tuple) else (result,)
        return [y for y in results if torch.is_tensor(y) and y.is_floating_point()]

    def values(function: Callable, leaves: Leaves) -> list[np.ndarray]:
        with torch.no_grad():
            return [y.numpy() for y in outputs(function, _mapped(leaves, tensor))]

    def pullback(leaves: Leaves, dy: PyTree) -> Gradient:
        tensors = {path: tensor(a).requires_grad_() for path, a in leaves.items()}
        ys = outputs(call, tensors)
        gradients = torch.autograd.grad(ys, list(tensors.values()), [tensor(d) for d in dy], allow_unused=True)
        array = lambda path, g: jnp.zeros_like(leaves[path]) if g is None else jnp.asarray(g.numpy())
        return {path: array(path, g) for path, g in zip(leaves, gradients, strict=True)}

    forward = partial(values, reference or call)
    _tried(lambda: forward(leaves), name)
    dy = [np.asarray(d) for d in cotangent(values(call, leaves), np.float64)]
    _tried(lambda: pullback(leaves, dy), f"{name}.backward")

    def variant(change: Callable[[PyTree], PyTree], dtype: Any) -> Problem:
        raise InputError("PyTorch code is checked in float64 only")

    problem = Problem(name, forward, pullback, leaves, dy, dtypes, variant, tree, differentiable=False, traceable=False)
    return replace(problem, on_numpy=True, decorated=partial(values, call))


def _tried(call: Callable[[], Any], who: str) -> None:
    try:
        call()
    except Exception as error:
        raise InputError(f"{who} raised {type(error).__name__}: {first_line(error)}") from None


def _mapped(tree: Any, change: Callable[[Any], Any]) -> Any:
    """The tree of dicts, lists and tuples with every leaf changed; a tensor is no leaf to JAX."""
    if isinstance(tree, dict):
        return {key: _mapped(value, change) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(_mapped(value, change) for value in tree)
    return change(tree)
