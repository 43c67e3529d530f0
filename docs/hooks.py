"""mkdocs hook: pages of figures are made at every build, so that they cannot rot.

Those of figures.md come from the suites' JSON, those of scale.md from the layers' own counts.
"""

import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent.parent / "bench" / "results"
INTRODUCTION = """# Figures

Every table on this page is made from a file in `bench/results/` when the page is built. A time is the ratio of two
programs that took turns in one process; above 1 the hand-written one is faster. Temporary bytes are the compiler's own
count; above 1 the hand-written program needs fewer. The range is that of the runs.
"""


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """mkdocs calls this for every page; the pages `figures.md` and `scale.md` get their tables here."""
    if page.file.src_uri == "scale.md":
        from jaxbp.devices.cost import tables as costs

        return markdown.replace("<!-- tables -->", costs())
    if page.file.src_uri != "figures.md":
        return markdown
    suites = [(path.stem.split("-")[0], json.loads(path.read_text())) for path in sorted(RESULTS.glob("*.json"))]
    tables = [
        section(suite, result) for suite, result in suites if any("case" in row for row in result.get("rows", ()))
    ]
    return "\n".join([INTRODUCTION, *tables])


def section(suite: str, result: dict[str, Any]) -> str:
    """One suite as a heading, the machine, and a table."""
    machine = result["machine"]
    where = f"{machine['threads']} threads of {machine['device']}, jax {machine['versions']['jax']}, {machine['date']}"
    header = "| case | autodiff / hand: time | range | autodiff / hand: temporary bytes | peer / hand: time |"
    command = f"`jaxbp bench --suite={suite}` on {where}."
    lines = [f"## {suite}", "", command, "", header, "|---|---|---|---|---|"]
    cases: dict[str, list[dict[str, Any]]] = {}
    for row in result["rows"]:
        cases.setdefault(row["case"], []).append(row)
    return "\n".join([*lines, *(line(case, rows) for case, rows in cases.items()), ""])


def line(case: str, rows: list[dict[str, Any]]) -> str:
    """One case: its rows differ in the peer alone."""
    first = rows[0]
    low, high = first["time_ratio_range"]
    memory = "-" if first["temp_ratio"] is None else f"{first['temp_ratio']:.2f}"
    peers = ", ".join(f"{row['peer']} {row['peer_ratio']:.2f}" for row in rows if "peer" in row) or "-"
    return f"| {case} | {first['time_ratio']:.2f} | {low:.2f} to {high:.2f} | {memory} | {peers} |"
