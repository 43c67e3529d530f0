"""The graph of a scalar computation (`jaxbp.scalar`) as SVG and in Graphviz's language DOT."""

from __future__ import annotations

from html import escape

from jaxbp.scalar import Value

COLUMN, ROW, WIDTH, HEIGHT = 210, 74, 120, 54  # of the drawing, in pixels
NAME = 16  # letters of a name that fit into a box


def dot(result: Value) -> str:
    """The graph in Graphviz's language: value and gradient on every node, the local derivative on every edge."""
    number = {value: i for i, value in enumerate(result.order())}
    quoted = lambda text: '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
    nodes = [f"  {i} [shape=box, label={quoted(chr(10).join(_lines(value)))}];" for value, i in number.items()]
    edges = [f'  {number[a]} -> {i} [label="{slope:.5g}"];' for value, i in number.items() for a, slope in value.edges]
    return "\n".join(["digraph {", "  rankdir=LR;", *nodes, *edges, "}", ""])


def svg(result: Value) -> str:
    """The graph as a picture, from left to right: value and gradient in every box, local derivatives on the edges.

    The box of a variable is blue, that of the result red.
    """
    place: dict[Value, tuple[int, int]] = {}
    rows: dict[int, int] = {}
    for value in result.order():
        column = 1 + max((place[operand][0] // COLUMN for operand, _ in value.edges), default=-1)
        place[value] = (column * COLUMN, rows.setdefault(column, 0) * ROW)
        rows[column] += 1
    parts = []
    for value, (x, y) in place.items():
        for i, (operand, slope) in enumerate(value.edges):
            left, top = place[operand][0] + WIDTH, place[operand][1] + HEIGHT // 2
            parts.append(f'<line x1="{left}" y1="{top}" x2="{x}" y2="{y + HEIGHT // 2}" stroke="gray"/>')
            at = f'x="{x - 8}" y="{y + HEIGHT // 2 + (i - 0.5) * 24 + 5:g}"'
            parts.append(f'<text {at} text-anchor="end" fill="royalblue">{slope:.5g}</text>')
        colour = "red" if value is result else "blue" if value.name and not value.edges else "black"
        parts.append(f'<rect x="{x}" y="{y}" width="{WIDTH}" height="{HEIGHT}" fill="white" stroke="{colour}"/>')
        lines = enumerate(_lines(value))
        parts += [f'<text x="{x + 6}" y="{y + 16 + 16 * i}">{escape(line[:NAME])}</text>' for i, line in lines]
    size = f"-5 -5 {max(rows) * COLUMN + WIDTH + 10} {max(rows.values()) * ROW}"
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{size}" font-family="sans-serif" font-size="12">'
    return "\n".join([head, *parts, "</svg>", ""])


def _lines(value: Value) -> tuple[str, str, str]:
    return value.name or "constant", f"value {value.data:.5g}", f"grad {value.gradient:.5g}"
