"""What a run has recorded, read in the form in which it writes it: rows of metrics, looks at health, sessions."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jaxbp.files import naming
from jaxbp.training.report.page import keys_of

BY_PATH = ("delta_norms", "alignment")  # the keys of a row that hold {path: figures}
TOGETHER = ({"gradient", "weight", "update"}, {"stuck", "saturated"})  # figures that a layer has all of, or none


def records(path: Path, has_form: Callable[[Any], bool]) -> list[dict[str, Any]]:
    """The lines of a log, up to the first that has not the form. Raises OSError for a file that cannot be read."""
    lines = []
    with naming(path, "read"):
        texts = path.read_text(errors="replace").splitlines()
    for text in texts:
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):
            break
        if not has_form(line):
            break
        lines.append(line)
    return lines


def is_row(row: Any) -> bool:
    """Whether it is a line of metrics.jsonl: finite figures, and {path: finite figures} at the keys BY_PATH."""
    return (
        isinstance(row, dict)
        and "train_loss" in row
        and is_count(row.get("epoch"))
        and is_count(row.get("step"))
        and all(is_by_path(value) if name in BY_PATH else is_figure(value) for name, value in row.items())
    )


def is_look(line: Any) -> bool:
    """Whether it is a line of health.jsonl: figures of the whole model, null where unknown, and those of its layers."""
    return (
        isinstance(line, dict)
        and "loss" in line
        and is_count(line.get("step"))
        and is_count(line.get("rows"))
        and isinstance(line.get("layers"), dict)
        and all(map(is_layer, line["layers"].values()))
        and all(value is None or is_figure(value) for name, value in line.items() if name != "layers")
    )


def is_layer(layer: Any) -> bool:
    """Whether it is {name: figure} of a layer in a line of health.jsonl, null where a figure is unknown."""
    return (
        isinstance(layer, dict)
        and "delta" in layer
        and all(names <= layer.keys() or not names & layer.keys() for names in TOGETHER)
        and all(value is None or is_figure(value) for value in layer.values())
    )


def is_by_path(value: Any) -> bool:
    """Whether it is {path: finite figures}."""
    return isinstance(value, dict) and all(
        isinstance(figures, list) and all(map(is_figure, figures)) for figures in value.values()
    )


def is_figure(value: Any) -> bool:
    """Whether it is a finite number."""
    return is_count(value) or (isinstance(value, float) and math.isfinite(value))


def is_count(value: Any) -> bool:
    """Whether it is a whole number of 63 bits."""
    return type(value) is int and 0 <= value < 2**63


def sessions(folder: Path) -> list[dict[str, str]] | None:
    """{'versions.jax': '0.10.2'} of each session in provenance.json; None where it is missing or damaged."""
    try:
        entries = json.loads((folder / "provenance.json").read_text())
        if isinstance(entries, list) and entries and all(isinstance(entry, dict) for entry in entries):
            return [keys_of(entry) for entry in entries]
    except (OSError, ValueError, RecursionError):
        pass
    return None
