"""What all commands share: options as the fields of a dataclass, the config with its overrides, help."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, TypeVar

from jaxbp import config as configuration
from jaxbp.commands.experiments import EXPERIMENTS
from jaxbp.config import Config
from jaxbp.errors import InputError, unknown
from jaxbp.typed import Typed, describe, field_types, meanings, missing_fields, parse, spell

HELP = {"--help", "-h"}


@dataclass(frozen=True)
class NewFile:
    """The texts that name a file which a command can write."""

    def holds(self, value: str) -> bool:
        """Whether the folder is there, and no folder has the file's own name."""
        try:
            return Path(value).parent.is_dir() and not Path(value).is_dir() and bool(os.fsencode(value))
        except (OSError, ValueError):  # a name that no file can have
            return False

    def __str__(self) -> str:
        return "that names a file in a folder that is there"


@dataclass(frozen=True)
class NewPicture(NewFile):
    """The texts that name a file which a command can write, and in a format that matplotlib has."""

    def holds(self, value: str) -> bool:
        """Whether the file can be written, and its ending names a format."""
        from matplotlib.backend_bases import FigureCanvasBase

        return super().holds(value) and Path(value).suffix.lower()[1:] in FigureCanvasBase.get_supported_filetypes()

    def __str__(self) -> str:
        return f"{super().__str__()}, and ends in .png or another format of matplotlib"


OutputFile = Annotated[str, NewFile()]
OutputPicture = Annotated[str, NewPicture()]
Options = TypeVar("Options", bound=Typed)


@dataclass(frozen=True)
class WithPicture(Typed):
    """Options of a program that prints figures and can draw them.

    Args:
        out: file of the picture; None: only the figures are printed
    """

    out: OutputPicture | None = None


def read(cls: type[Options], words: Sequence[str], experiment: str = "") -> tuple[Options, list[str]]:
    """The command's options, and the words that are none of them.

    --help prints the text of the module of `cls`, the options, and every key of a config, and ends the command.
    experiment: whose keys these are where the option `config` is None. Raises InputError for a bad value, and for an
    option that is required and not there.
    """
    types = field_types(cls)
    values: dict[str, Any] = {}
    others = []
    for word in _with_values(words, types):
        option, equals, text = word.partition("=")
        name = option.removeprefix("--")
        if name not in types:
            others.append(word)
            continue
        if name in values:
            raise InputError(f"{option} is given twice")
        if not equals and types[name] is not bool:
            raise InputError(f"{option} needs a value: {option}=VALUE")
        values[name] = parse(option, text if equals else "true", types[name])
    if HELP & set(others):
        _show_help(cls, values, [word for word in others if word not in HELP], experiment)
        raise SystemExit(0)
    if missing := missing_fields(cls, values):
        raise InputError(f"--{missing[0]} is missing: --{missing[0]}=VALUE (--help shows all options)")
    return cls(**values), others


def read_all(cls: type[Options], words: Sequence[str]) -> Options:
    """The options of a command that takes no other words. Raises InputError where there are some."""
    options, others = read(cls, words)
    if others:
        raise unknown("option", others[0].partition("=")[0], _names(cls))
    return options


def load(experiment: str) -> Config:
    """The config of a file, or of EXPERIMENTS by name."""
    return EXPERIMENTS[experiment] if experiment in EXPERIMENTS else configuration.load(experiment)


def override(config: Config, words: Sequence[str], options: Typed) -> Config:
    """The config with the overrides in `words`, which are no `options` of the command."""
    return configuration.override(config, words, _names(type(options)))


def _names(cls: type[Typed]) -> list[str]:
    return [f"--{name}" for name in field_types(cls)]


def _with_values(words: Sequence[str], types: dict[str, Any]) -> list[str]:
    """Every option with its values in one word: '--config.model.hidden 64 32' becomes '--config.model.hidden=64 32'.

    A word without dashes that belongs to no option before it is a value of the command's first option.
    """
    joined: list[str] = []
    open_option = ""  # the option that takes the next word
    for word in words:
        if word.startswith("-") and not re.match(r"-\.?\d", word):
            joined.append(word)
            open_option = "" if "=" in word or word in HELP else word
        elif open_option and _takes(joined[-1], word, types):
            joined[-1] += f" {word}" if "=" in joined[-1] else f"={word}"
            open_option = open_option if open_option.startswith("--config.") else ""
        else:
            if "=" in word and not Path(word).exists():
                raise InputError(f"an option begins with --: did you mean '--{word}'?")
            joined.append(f"--{next(iter(types))}={word}")
            open_option = ""
    return joined


def _takes(option: str, word: str, types: dict[str, Any]) -> bool:
    """Whether a word without dashes belongs to the option, with its values so far, that stands before it."""
    if types.get(option.removeprefix("--")) is bool:
        return word.lower() in ("true", "false")
    return "=" not in option or not word.endswith(".py")


def _show_help(cls: type[Typed], values: dict[str, Any], words: Sequence[str], experiment: str) -> None:
    values = {field.name: values.get(field.name, field.default) for field in fields(cls)}
    config = None
    if "config" in values:
        config = configuration.override(load(values["config"] or experiment), words, _names(cls))
    print(sys.modules[cls.__module__].__doc__)
    for name, kind in field_types(cls).items():
        print(describe(f"--{name}", meanings(cls)[name], values[name], spell(kind)))
    if config:
        print("\nKeys of the config, each --config.KEY=VALUE:\n")
        configuration.show_help(config)
