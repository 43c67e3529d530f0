"""Every field of every config class: its range, its meaning, its entry in --help."""

import dataclasses
import functools
import inspect
import re
import shlex
from typing import Annotated, get_args, get_origin

import pytest

from jaxbp.config import keys, load, show_help
from jaxbp.typed import Typed, field_types
from tests.support.paths import ROOT

FILES = sorted(ROOT.glob("configs/*.py"))
SETS = {tuple(key for key, _ in keys(load(path))): path for path in FILES}  # one config for each set of keys


def every_kind(base):
    yield base
    for derived in base.__subclasses__():
        yield from every_kind(derived)


CONFIGS = sorted(
    {cls for cls in every_kind(Typed) if cls.__module__.startswith("jaxbp.")}, key=lambda cls: cls.__name__
)
ANY_SIGN = {  # floats without a range
    *("MulticlassHinge.margin", "Columns.fills", "Scaling.offset", "Scaling.scale", "Rows.x", "Rows.y"),
    "Run.stop_at_loss",
}


def test_every_float_has_a_range():
    """Outside it a value is refused: tests/training/test_typed.py."""

    def bare(annotation):
        if get_origin(annotation) is Annotated:
            return False
        return annotation is float or any(map(bare, get_args(annotation)))

    without = {f"{cls.__name__}.{name}" for cls in CONFIGS for name, kind in field_types(cls).items() if bare(kind)}
    assert without == ANY_SIGN


def meanings(cls):
    """{field: its words} of the Args sections of a class and its bases."""
    words = {}
    for base in reversed(cls.__mro__):
        _, _, section = inspect.cleandoc(vars(base).get("__doc__") or "").partition("Args:\n")
        entries = re.findall(r"^    (\w+): (.*(?:\n {5,}.*)*)", section, re.M)
        words |= {name: " ".join(text.split()) for name, text in entries}
    return words


@pytest.mark.parametrize("cls", CONFIGS, ids=lambda cls: cls.__name__)
def test_every_key_has_a_meaning(cls):
    assert meanings(cls).keys() == {field.name for field in dataclasses.fields(cls)}


@pytest.mark.parametrize("names", SETS, ids=lambda names: SETS[names].stem)
def test_help_shows_every_key_with_its_meaning_and_value(names, capsys):
    config = load(SETS[names])
    show_help(config)
    text = " ".join(re.sub("[│╭╮╰╯─]", " ", capsys.readouterr().out).split())
    entries = {entry.partition(" ")[0]: entry for entry in text.split("--config.")}
    for key in names:
        *parents, name = key.split(".")
        owner = functools.reduce(getattr, parents, config)
        value = getattr(owner, name)
        shown = shlex.join(map(str, value if isinstance(value, tuple) else (value,)))
        assert meanings(type(owner))[name] in entries[key]
        assert f"(default: {shown})" in entries[key]
