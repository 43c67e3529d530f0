"""The gradient check of code in a file, leaf by leaf, in float64:

    python -m jaxbp.check --function=FILE:gradient --loss=FILE:loss --example=FILE:example
        a hand-written gradient(params, *batch) of a scalar loss(params, *batch); example() returns (params, *batch)

    python -m jaxbp.check --function=FILE:f [--reference=FILE:plain] --example=FILE:example
        a function with a jax.custom_vjp, against a plain one or against itself with its rules taken off; example()
        returns its arguments, a tuple

    python -m jaxbp.check --module=FILE:model --example=FILE:example
        a module of Flax NNX, Flax Linen, Equinox or PyTorch with such a function inside; example() returns its inputs

    python -m jaxbp.check --layer=FILE:Layer --shape=5,3
        a layer, or a class that is one without arguments, on random inputs of that shape, batch first

--option=causal=False,True tries a function or module with those values of a keyword; given several times, every pair
of two options' values. All but a custom_vjp may be NumPy code.

Exit status: 0 the gradient is right, 1 it is wrong, 2 it cannot be checked (one line on stderr; or the
report, where a leaf is nothing but kinks).
"""

from __future__ import annotations

import argparse
import ast
import copy
import functools
import importlib.util
import os
import sys
import traceback
from collections.abc import Callable, Sequence, Set
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import jax
import numpy as np

from jaxbp.check.api import check_function, check_gradient, check_layer, check_module
from jaxbp.check.ci import github, junit, place_of
from jaxbp.check.columns import rules_of
from jaxbp.check.report import Report
from jaxbp.core import Layer, shaped
from jaxbp.errors import InputError, unknown
from jaxbp.files import write_json

FORM = ("function", "loss", "reference", "example", "layer", "shape", "module", "option", "domain")  # what is checked
WHAT = "what to check is missing: --function, --module or --layer"


def main(words: Sequence[str]) -> int:
    """Checks what the words of the command line name. Returns the exit status; raises InputError where it is 2."""
    options = _options(words)
    report = _report(options)
    print(report)
    place = place_of(_object(options.function or options.layer or options.module))
    if options.github:
        print(*github(report, place), sep="\n")
    if options.json:
        _written("--json", options.json, lambda path: write_json(path, report.to_json()))
    if options.junit:
        _written("--junit", options.junit, lambda path: path.write_bytes(junit(report, place)))
    return report.exit_status


def _written(option: str, path: Path, write: Callable[[Path], Any]) -> None:
    try:
        write(path)
    except OSError as error:
        raise InputError(f"{option}: {path} cannot be written: {error.strerror}") from None


def _report(options: argparse.Namespace) -> Report:
    settings = {"level": options.level, "accuracy": options.accuracy, "seed": options.seed}
    if not any(getattr(options, name) for name in FORM):
        raise InputError(f"{WHAT} (--help shows how it is called)")
    if options.layer:
        _needs("--layer", options, {"layer", "shape"})
        return check_layer(_layer(options.layer), shaped(*options.shape), **settings)
    if options.loss:
        _needs("--loss", options, {"function", "loss", "example"}, allowed={"domain"})
        gradient, loss = _callable(options.function), _callable(options.loss)
        return check_gradient(gradient, loss, *_example(options.example), domain=dict(options.domain), **settings)
    settings["options"] = dict(options.option) or None
    if options.module:
        _needs("--module", options, {"module", "example"}, allowed={"option"})
        return check_module(_object(options.module), *_example(options.example), **settings)
    _needs("--function", options, {"function", "example"}, allowed={"reference", "option", "domain"})
    settings["reference"] = _callable(options.reference) if options.reference else None
    settings["domain"] = dict(options.domain)
    function, arguments = _callable(options.function), _example(options.example)
    if not options.reference and _is_gradient(function, copy.deepcopy(arguments)):
        raise InputError(
            f"{options.function} has no custom rule and returns a tree like its first argument, as a gradient does: "
            "--loss=FILE:NAME, the function that it is the gradient of, is missing"
        )
    return check_function(function, *arguments, **settings)


def _is_gradient(function: Callable, arguments: tuple) -> bool:
    """Whether a function without a rule returns a tree like its first argument's, which is no single array."""
    like = jax.tree.map(np.shape, arguments[0])
    try:
        returned = jax.tree.map(np.shape, function(*arguments))
    except Exception:  # the check says what is wrong
        return False
    if jax.tree_util.treedef_is_leaf(jax.tree.structure(arguments[0])) or returned != like:
        return False
    try:
        return not rules_of(lambda arguments: function(*arguments), arguments)
    except Exception:  # NumPy code, which has none
        return True


# The command line.


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message} (--help shows how it is called)")


def _options(words: Sequence[str]) -> argparse.Namespace:
    parser = _Parser(
        "python -m jaxbp.check",
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = functools.partial(parser.add_argument, metavar="FILE:NAME")
    add("--function", help="the hand-written gradient, or the function with a custom rule")
    add("--loss", help="the scalar function that the gradient is of")
    add("--reference", help="the same function without a custom rule")
    add("--example", help="a function of no arguments that returns the arguments to check at")
    add("--module", help="a module of Flax, Equinox or PyTorch")
    option_help = "a keyword of the function or module with the values to try, as in causal=False,True"
    add("--option", type=_option, action="append", default=[], metavar="NAME=VALUES", help=option_help)
    domain_help = "bounds of an argument, None for any, as in x=0,None: differences stay inside"
    add("--domain", type=_option, action="append", default=[], metavar="NAME=LOW,HIGH", help=domain_help)
    add("--layer", help="a jaxbp.Layer")
    add("--shape", type=_shape, metavar="N,...", help="the shape of the layer's input")
    level_help = "full: also other precisions, batches, transformations and hard points"
    add("--level", choices=["default", "full"], default="default", metavar="LEVEL", help=level_help)
    add("--accuracy", type=_accuracy, default=1e-11, metavar="E", help="the largest relative error that is right")
    seed_help = "of random directions, and of the layer's parameters and inputs"
    add("--seed", type=_count, default=0, metavar="SEED", help=seed_help)
    add("--json", type=_writable, metavar="FILE", help="also write the report to this file")
    add("--junit", type=_writable, metavar="FILE", help="also write the report to this file in JUnit's form")
    github_help = "also print what is wrong as annotations that GitHub shows at the code"
    parser.add_argument("--github", action="store_true", help=github_help)
    return parser.parse_args(words)


def _needs(form: str, options: argparse.Namespace, needed: set[str], allowed: Set[str] = frozenset()) -> None:
    """Refuses a form of the command that lacks an option, or that has one of another form."""
    present = {name for name in FORM if getattr(options, name)}
    if missing := sorted(needed - present):
        loss = ", and a hand-written gradient its --loss" if form == "--function" and "reference" not in present else ""
        raise InputError(f"{form} needs --{missing[0]} too{loss} (--help shows how it is called)")
    if strange := sorted(present - needed - allowed):
        raise InputError(f"{form} does not go with --{strange[0]} (--help shows how it is called)")


def _shape(text: str) -> tuple[int, ...]:
    try:
        sizes = tuple(int(size) for size in text.split(","))
    except ValueError:
        sizes = ()
    if not sizes or min(sizes) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is no shape: it must be sizes of at least 1, as in 5,3")
    return sizes


def _option(text: str) -> tuple[str, list]:
    name, _, values = text.partition("=")
    try:
        parsed = ast.literal_eval(f"[{values}]")
    except (SyntaxError, ValueError):
        parsed = []
    if not name.isidentifier() or not parsed:
        message = f"'{text}' must be NAME=VALUE,VALUE with Python's literals, as in causal=False,True"
        raise argparse.ArgumentTypeError(message)
    return name, parsed


def _accuracy(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"'{text}' must be a number between 0 and 1")
    return value


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"'{text}' must be an integer of at least 0")
    return int(text)


def _writable(text: str) -> Path:
    path = Path(text)
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"'{text}' is a folder")
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder '{path.parent}'")
    return path


# What the words name.


def _object(place: str) -> Any:
    """The object of 'file.py:name'."""
    file, _, name = place.rpartition(":")
    if not file or not name:
        raise InputError(f"'{place}' names nothing: it must be FILE:NAME, as in model.py:loss")
    names = vars(_module(Path(file)))
    if name not in names:
        raise unknown(f"name in {file}", name, [known for known in names if not known.startswith("_")])
    return names[name]


@functools.cache
def _module(path: Path) -> ModuleType:
    """The file as a module, run once however often it is asked for. It may import the files beside it."""
    if not path.is_file():
        near = sorted(str(p) for p in path.parent.glob("*.py"))
        raise unknown("file", str(path), near) if near else InputError(f"there is no file {path}")
    spec = importlib.util.spec_from_file_location(f"checked_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise InputError(f"{path} is no Python file: its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses of the file look their annotations up there
    sys.path.insert(0, str(path.parent.resolve()))
    _run(functools.partial(spec.loader.exec_module, module), f"{path}:import")
    return module


def _callable(place: str) -> Callable:
    function = _object(place)
    if not callable(function):
        raise InputError(f"{place} must be a function, got {type(function).__name__}")
    return function


def _example(place: str) -> tuple:
    arguments = _run(_callable(place), place)
    if not isinstance(arguments, tuple):
        raise InputError(f"{place} must return a tuple of arguments, got {type(arguments).__name__}")
    if not arguments:
        raise InputError(f"{place} must return a tuple of arguments, got an empty one")
    return arguments


def _layer(place: str) -> Layer:
    layer = _object(place)
    if isinstance(layer, type) and issubclass(layer, Layer):
        layer = _run(layer, place)
    if not isinstance(layer, Layer):
        raise InputError(f"{place} must be a jaxbp.Layer, got {type(layer).__name__}")
    return layer


def _run(call: Callable, place: str) -> Any:
    """The result of `call`. An exception becomes an InputError that names the line of the file where it was raised."""
    try:
        return call()
    except (Exception, SystemExit) as error:
        file = os.path.abspath(place.rpartition(":")[0])
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
        line = f" (line {lines[-1]})" if lines else ""
        text = next(iter(str(error).splitlines()), "")
        raise InputError(f"{place} raised {type(error).__name__}{line}: {text}") from None


if __name__ == "__main__":
    try:
        status = main(sys.argv[1:])
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        status = 2
    sys.exit(status)
