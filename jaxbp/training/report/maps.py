"""Pictures of a run's health: one heat map of layers against time for each figure, and its sentences."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from jaxbp.training.report.curves import new_figure
from jaxbp.training.report.diagnosis import BAND, RULES, Finding
from jaxbp.training.report.evidence import Evidence
from jaxbp.training.report.page import Part, drawn

NAMED = 25  # layers at most whose names stand at the axis
MAPS = {  # figure -> (title, logarithmic, what it is)
    "delta": ("Size of the delta", True, "Norm of the loss's derivative in every layer's output, over the probe."),
    "gradient": ("Size of the gradient", True, "Norm of every layer's gradient on the probe."),
    "update": (
        "Update beside weight",
        True,
        f"Norm of a step's update over that of the weights. Usual is 1e-3; the band is {BAND[0]:g} to {BAND[1]:g}.",
    ),
    "stuck": ("Dead units", False, "Share of an activation's units whose slope is 0 in every row of the probe."),
    "saturated": (
        "Saturated units",
        False,
        "Share of the outputs where a function that is flat at both ends has under 5 % of its slope at 0.",
    ),
    "mean": ("Mean of the outputs", False, "Over all entries of every layer's output."),
    "spread": ("Spread of the outputs", True, "Standard deviation over all entries of every layer's output."),
    "cosine": ("Successive updates", False, "Cosine of the angle between two updates: 1 straight on, -1 back again."),
}


def health_parts(evidence: Evidence, findings: list[Finding]) -> Iterator[Part]:
    """A part for each figure that was recorded, with the sentences that its rules have found."""
    for name, (title, logarithmic, meaning) in MAPS.items():
        paths, table = evidence.table(name)
        if name == "update":
            table = table / np.maximum(evidence.table("weight")[1], np.finfo(float).tiny)
        if np.isfinite(table).any():
            picture = heat_map(paths, evidence.steps, table, logarithmic, name)
            yield sentences(name, findings, title, picture, (meaning,))
    scale = evidence.figures("noise_scale")
    if np.isfinite(scale).any():
        meaning = "Batch size at which noise and gradient are as large. A larger batch than that hardly helps."
        yield sentences("noise_scale", findings, "Gradient noise scale", noise_curve(evidence.steps, scale), (meaning,))


def sentences(
    picture: str, findings: list[Finding], title: str = "", address: str = "", texts: tuple[str, ...] = ()
) -> Part:
    """A part with what the rules of a picture have found, and the rules."""
    rules = [rule for rule in RULES if rule.picture == picture]
    wrong = [finding.text for finding in findings if finding.picture == picture]
    rule = (f"Rule: {' '.join(rule.text for rule in rules)}",) if rules else ()
    right = "Nothing is wrong here." if rules and not wrong else ""
    return Part(title, address, wrong, right, (*texts, *rule))


def heat_map(paths: list[str], steps: list[int], table: np.ndarray, logarithmic: bool, name: str) -> str:
    """Layers against time, the first layer on top; the band of |update| / |weight| is white."""
    from matplotlib.colors import LogNorm, Normalize, TwoSlopeNorm

    figure = new_figure(9, min(1.2 + 0.24 * len(paths), 4.8))
    axes = figure.subplots()
    if name == "update":
        shown = np.log10(np.maximum(table, 1e-12))
        norm: Normalize = TwoSlopeNorm(-3, -6, 0)
    elif name == "cosine":
        shown, norm = table, Normalize(-1, 1)
    elif logarithmic and (table > 0).any():
        high = np.nanmax(table)
        shown, norm = np.where(table > 0, table, np.nan), LogNorm(max(np.nanmin(table[table > 0]), 1e-12 * high), high)
    else:
        largest = np.nanmax(np.abs(table))
        shown, norm = table, Normalize(min(0, np.nanmin(table)), 1 if name in ("stuck", "saturated") else largest or 1)
    colours = "RdBu_r" if name in ("update", "cosine") else "viridis"
    picture = axes.imshow(shown, aspect="auto", cmap=colours, norm=norm, interpolation="nearest")
    places = np.unique(np.linspace(0, len(steps) - 1, min(len(steps), 8)).astype(int))
    axes.set_xticks(places, [str(steps[i]) for i in places])
    named = range(0, len(paths), -(-len(paths) // NAMED))
    axes.set_yticks(named, [paths[i][-40:] for i in named], fontsize=8, parse_math=False)
    axes.set_xlabel("step", fontsize=8)
    bar = figure.colorbar(picture, ax=axes)
    if name == "update":
        for place in (np.log10(BAND[0]), -3, np.log10(BAND[1])):
            bar.ax.axhline(place, color="black", linewidth=2 if place == -3 else 1)
        bar.set_label("power of ten", fontsize=8)
    return drawn(figure)


def noise_curve(steps: list[int], scale: np.ndarray) -> str:
    """The noise scale over time; where the estimate is not above 0 there is no point."""
    figure = new_figure(9, 2.2)
    axes = figure.subplots()
    axes.semilogy(steps, np.where(scale > 0, scale, np.nan), ".-")
    axes.set(xlabel="step", ylabel="examples")
    axes.grid(alpha=0.3)
    return drawn(figure)
