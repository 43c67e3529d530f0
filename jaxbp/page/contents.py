"""What a stepping page holds, as plain data, and the page itself: one HTML file that asks nobody for anything."""

from __future__ import annotations

import base64
import hashlib
import json
import math
from dataclasses import fields
from importlib.resources import files
from typing import Any

import numpy as np

import jaxbp
from jaxbp.analysis.record import Record
from jaxbp.config import to_json
from jaxbp.credit import Backpropagation
from jaxbp.page.mistakes import STEPS, gradient_with, losses, planted
from jaxbp.page.network import network
from jaxbp.page.setting import Setting
from jaxbp.page.trace import stepper, tracer
from jaxbp.typed import Typed

NUMBERS = 20_000  # in all passes of a page together; above, it has shapes and norms alone, and no planted mistakes
SHOWN = 10_000  # letters of the config


def stepping_page(start: Setting, title: str, updates: int) -> bytes:
    """The page of an experiment."""
    return page(contents(start, title, updates))


def contents(start: Setting, title: str, updates: int) -> dict[str, Any]:
    """Everything on the page: the passes before and after each of so many updates, and the planted mistakes."""
    passes = recorded(start, updates)
    is_small = sum(3 * row.value.size for table in passes for row in table.rows) <= NUMBERS
    with_mistakes = is_small and start.config.credit == Backpropagation()
    return {
        "title": title,
        "version": jaxbp.__version__,
        "config": json.dumps(to_json(start.config), indent=1)[:SHOWN],
        "model": repr(start.model)[:SHOWN],
        "loss": brief(start.config.loss),
        "optimizer": brief(start.config.optimizer),
        "credit": "" if start.config.credit == Backpropagation() else brief(start.config.credit),
        "penalty": brief(start.config.penalty) if start.penalties else "",
        "classes": start.classes,
        "examples": len(start.batch["x"]),
        "net": network(start, max(updates, STEPS) + 1),
        "passes": [_pass(table, is_small) for table in passes],
        "limit": NUMBERS,
        "right": losses(start, gradient_with(start, None)) if with_mistakes else [],
        "mistakes": planted(start) if with_mistakes else [],
        "rate": start.rate,
    }


def recorded(start: Setting, updates: int) -> list[Record]:
    """The pass before each update of the run, on the same examples, and the pass after the last."""
    run, step = tracer(start), stepper(start)
    state = start.params, start.optimizer().init(start.params), start.kept
    passes = [run(start.params, start.kept)]
    for _ in range(updates):
        state = step(*state)
        passes.append(run(state[0], state[2]))
    return passes


def brief(config: Typed) -> str:
    """The call that makes the config, without the fields that are at their defaults."""
    changed = [field.name for field in fields(config) if getattr(config, field.name) != field.default]
    return f"{type(config).__name__}({', '.join(f'{name}={getattr(config, name)!r}' for name in changed)})"


def page(data: dict[str, Any]) -> bytes:
    """The page that shows `contents`. Its policy forbids every request, and every script but its own."""
    from jinja2 import Environment

    folder = files(__package__)
    read = lambda name: folder.joinpath(name).read_text(encoding="utf-8")
    script = "\n".join(map(read, ("engine.js", "parts.js", "recorded.js", "view.js")))
    style = read("page.css")
    template = Environment(autoescape=True, trim_blocks=True).from_string(read("page.html.j2"))
    hashed = lambda text: base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return template.render(
        data=_finite(data),
        title=data["title"],
        script=script,
        style=style,
        script_hash=hashed(script),
        style_hash=hashed(style),
    ).encode()


def _pass(table: Record, with_numbers: bool) -> dict[str, Any]:
    rows = []
    for row in table.rows:
        described = {
            "name": row.name,
            "kind": row.kind,
            "formula": row.formula,
            "shape": list(row.value.shape),
            "norm": float(np.linalg.norm(row.value)),
            "derivative_norm": float(np.linalg.norm(row.by_hand)),
            "difference": row.difference,
            "cosine": row.cosine,
        }
        arrays = {"value": row.value, "by_hand": row.by_hand, "autodiff": row.autodiff, "sent": row.sent}
        held = {name: array.tolist() for name, array in arrays.items() if with_numbers and array is not None}
        rows.append(described | held)
    return {"loss": table.value, "penalty": table.penalty or 0.0, "rows": rows}


def _finite(data: Any) -> Any:
    """The data with nan and infinities, which JSON does not have, as the texts that JavaScript reads."""
    if isinstance(data, dict):
        return {key: _finite(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_finite(value) for value in data]
    if isinstance(data, float) and not math.isfinite(data):
        return "NaN" if math.isnan(data) else "Infinity" if data > 0 else "-Infinity"
    return data
