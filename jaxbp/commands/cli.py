"""What all commands share: flags, the config with its overrides, and one line with exit status 2 for bad input."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from absl import app, flags, logging

from jaxbp import config as configuration
from jaxbp.errors import InputError


def run(main: Callable[[list[str]], int | None]) -> None:
    """Runs a command: absl reads its own flags, `main` gets the other words and returns the exit status."""

    def guarded(argv: list[str]) -> int | None:
        logging.set_verbosity(logging.WARNING)
        try:
            return main(argv[1:])
        except InputError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2

    app.run(guarded, flags_parser=_parse)


def config(words: Sequence[str]) -> configuration.Config:
    """The config of --config with the overrides in `words`."""
    return configuration.override(configuration.load(flags.FLAGS.config), words)


def _parse(argv: Sequence[str]) -> list[str]:
    """Reads absl's flags, and returns the other words. --help prints the flags and every key of the config."""
    wants_help = {"--help", "-h"} & set(argv)
    words = flags.FLAGS(_with_equals([word for word in argv if word not in wants_help]), known_only=True)
    if wants_help:
        print(sys.modules["__main__"].__doc__)
        print(flags.FLAGS.main_module_help())
        if "config" in flags.FLAGS:
            configuration.show_help(configuration.load(flags.FLAGS.config))
        sys.exit(0)
    return words


def _with_equals(argv: Sequence[str]) -> list[str]:
    """'--config.run.seed 1' as '--config.run.seed=1': a word without dashes belongs to the option before it."""
    joined: list[str] = []
    for word in argv:
        if joined[1:] and not word.startswith("-") and joined[-1].startswith("--") and "=" not in joined[-1]:
            joined[-1] += f"={word}"
        else:
            joined.append(word)
    return joined
