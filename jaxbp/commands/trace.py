"""Every number of one forward and backward pass, as a table:

    jaxbp trace [FILE] [--examples=N] [--html=PAGE] [--json=FILE] [--npz=FILE] [--config.KEY=VALUE ...]

The table has outputs, deltas, parameters and gradients by name, and every derivative twice: by hand and by jax.grad.
It is made in float64 from the config's initial weights and its first training examples. The files hold all numbers.
A penalty has rows of its own. Of a credit rule the table also has what goes back in place of each delta.

--html writes a page that steps through the passes of the first updates: forward, loss, backward, update, each with its
equation. A small network of dense layers is drawn, its weights and inputs can be dragged, and mistakes can be planted:
the page says what the gradient check makes of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import jax

from jaxbp.commands import cli
from jaxbp.files import write_json, write_whole
from jaxbp.page.contents import stepping_page
from jaxbp.page.setting import setting
from jaxbp.page.trace import traced
from jaxbp.programs import keep_programs
from jaxbp.typed import Count, Range, Typed


@dataclass(frozen=True)
class Options(Typed):
    """The options of the command.

    Args:
        config: the experiment: a file with get_config(), or digits_mlp or xor
        examples: how many training examples
        updates: how many updates of the weights the page goes through, 1,000 at most
        html: also write a page that steps through them to this file
        json: also write everything to this file
        npz: also write the arrays to this file
    """

    config: str = "xor"
    examples: Count = 1
    updates: Annotated[int, Range(1, 1000)] = 5
    html: cli.OutputFile | None = None
    json: cli.OutputFile | None = None
    npz: cli.OutputFile | None = None


def main(words: Sequence[str]) -> int:
    """Traces what the words say, and returns the exit status."""
    options, overrides = cli.read(Options, words)
    config = cli.override(cli.load(options.config), overrides, options)
    keep_programs(config)
    with jax.enable_x64(True), jax.default_matmul_precision("highest"):
        start = setting(config, options.examples)
        table = traced(start)
        page = stepping_page(start, options.config, options.updates) if options.html else b""
    print(table)
    if options.html:
        write_whole(Path(options.html), page)
    if options.json:
        write_json(Path(options.json), table.to_json())
    if options.npz:
        write_whole(Path(options.npz), table.to_npz())
    for file in filter(None, (options.html, options.json, options.npz)):
        print(file)
    return 0
