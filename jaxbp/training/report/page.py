"""report.html: one file that can be mailed and kept. No script, no request; every text in it is escaped."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LONGEST = 500  # characters of a cell
WIDE = 640  # pixels


@dataclass(frozen=True)
class Part:
    """A picture, sentences under it, and a table; any of them may be missing."""

    title: str = ""
    picture: str = ""  # a data: address
    wrong: Sequence[str] = ()  # what is wrong in this run
    right: str = ""  # that nothing is
    texts: Sequence[str] = ()
    table: Sequence[Sequence[Any]] = ()  # the first row is the head

    @property
    def is_wide(self) -> bool:
        """Whether a narrow window scrolls the picture, since it would make its letters too small."""
        png = base64.b64decode(self.picture.partition(",")[2][:64])
        return int.from_bytes(png[16:20]) > WIDE


@dataclass(frozen=True)
class Section:
    """Parts under one title."""

    title: str
    parts: list[Part] = field(default_factory=list)
    is_verdict: bool = False  # it says whether something is wrong


def page(title: str, sections: Iterable[Section]) -> bytes:
    """The file."""
    html: str = _template().render(title=shortened(title), sections=list(sections))
    return html.encode(errors="backslashreplace")


@lru_cache(maxsize=1)
def _template() -> Any:
    """The template of the page. Its import takes long, so that only who writes a page waits for it."""
    import jinja2

    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    return jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined).get_template(
        "page.html"
    )


def drawn(figure: Figure) -> str:
    """A figure as the address of a picture within the page."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    return address(buffer.getvalue())


def address(png: bytes) -> str:
    """The bytes of a PNG as the address of a picture within the page."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def shortened(text: Any) -> str:
    """At most LONGEST characters of the text; the middle of a longer one is left out."""
    text = str(text)
    return text if len(text) <= LONGEST else f"{text[: LONGEST // 2]} ... {text[-LONGEST // 2 :]}"


def keys_of(data: Any, prefix: str = "") -> dict[str, str]:
    """'run.seed' -> '0' for every leaf of nested plain data."""
    if isinstance(data, dict) and data:
        flat: dict[str, str] = {}
        for key, value in data.items():
            flat |= keys_of(value, shortened(f"{prefix}.{key}" if prefix else key))
        return flat
    return {prefix: shortened(data)}
