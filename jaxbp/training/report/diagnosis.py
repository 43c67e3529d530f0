"""What is wrong with a run, in sentences: rules over what was recorded, each with its threshold.

A rule says what is wrong in this run and what to do, or nothing. Where a cause alone does no harm (large updates in a
small net, units of a net that has learnt), the rule also asks whether the run has failed: whether the loss of the probe
has not fallen by a tenth, has risen to twice its lowest value, or is not finite.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from jaxbp.training.report.evidence import Evidence

BAND = (1e-4, 1e-2)  # of |update| / |weight|, around 1e-3


class Finding(NamedTuple):
    """What a rule has found."""

    rule: str
    picture: str  # under which it stands
    text: str


@dataclass(frozen=True)
class Rule:
    """One thing that can be wrong with a run."""

    name: str
    picture: str
    judge: Callable[[Evidence], str | None]  # its docstring is the rule, with its threshold

    @property
    def text(self) -> str:
        """What the rule asks."""
        return " ".join((self.judge.__doc__ or "").split())


def findings(evidence: Evidence) -> list[Finding]:
    """What is wrong with the run, in the order of RULES."""
    with np.errstate(all="ignore"):  # a ratio to 0 is no figure
        texts = [(rule, rule.judge(evidence)) for rule in RULES]
    return [Finding(rule.name, rule.picture, text) for rule, text in texts if text]


def failing(evidence: Evidence) -> str | None:
    """How the run has failed; None where it has not."""
    losses = evidence.losses
    if evidence.stopped:
        return "it stopped at numbers that are not finite"
    if len(losses) < 2:
        return None
    first, last = losses[0], median_of_last(losses)
    if not np.isfinite(last) or last > 2 * max(np.min(losses), 0.05 * first):
        return f"the loss has risen from {np.min(losses):.3g} to {last:.3g}"
    return f"the loss went from {first:.3g} to {last:.3g}" if last > 0.9 * first else None


def not_finite(evidence: Evidence) -> str | None:
    """Every loss, gradient and weight is finite."""
    if not evidence.stopped:
        return None
    return f"The run stopped: {evidence.stopped} was not finite. What comes before it in time is below."


def rate_too_high(evidence: Evidence) -> str | None:
    """A step changes the weights by at most 1e-2 of their size, and does not undo the one before, where a run fails, or
    up to where its loss doubles."""
    failed = failing(evidence)
    rise = first_rise(evidence.losses)
    if not evidence.health or not (failed or rise) or exploding(evidence):  # whose consequence it is
        return None
    looks = slice(rise + 1) if rise else slice(None)
    if rise:
        failed = f"by step {evidence.steps[rise]} the loss rose to {evidence.losses[rise]:.3g}"
    ratio = middle(evidence.ratio[looks])
    cosine = middle(evidence.figures("cosine")[looks])
    if ratio > BAND[1]:
        return (
            f"The learning rate is too high: a step changes the weights by {ratio:.1g} of their size, and {failed}. "
            f"Lower it about {ratio / 1e-3:,.0f} times."
        )
    if cosine < -0.5:
        return (
            f"The learning rate is too high: each step undoes the one before (cosine {cosine:.2f}), and {failed}. "
            "Lower it ten times."
        )
    return None


def first_rise(losses: np.ndarray) -> int | None:
    """The first look whose loss is twice the lowest before it, or not finite; a rise below 5 % of the first is none."""
    for i in range(1, len(losses)):
        if not np.isfinite(losses[i]) or losses[i] > 2 * max(np.min(losses[:i]), 0.05 * losses[0]):
            return i
    return None


def rate_too_low(evidence: Evidence) -> str | None:
    """A step changes the weights by at least 1e-4 of their size, where the loss is above 0.3 of its first and falls."""
    losses = evidence.losses
    if len(losses) < 4 or not np.isfinite(losses).all():
        return None
    if dead_units(evidence) or saturated_units(evidence) or vanishing(evidence):  # whose consequence it is
        return None
    ratio = middle(evidence.ratio)
    last = median_of_last(losses)
    fallen = losses[0] - last
    still = np.median(losses[len(losses) // 2 - 1 : len(losses) // 2 + 2]) - last
    if ratio >= BAND[0] or last < 0.3 * losses[0] or still < 0.15 * fallen or lost_share(evidence) > 0.5:
        return None
    return (
        f"The learning rate is too low: a step changes the weights by {ratio:.1g} of their size, and the loss still "
        f"fell at the end, from {losses[0]:.3g} to {last:.3g}. Raise it about {1e-3 / ratio:,.0f} times."
    )


def dead_units(evidence: Evidence) -> str | None:
    """At most half of a layer's units have a slope of 0 for all of the probe."""
    paths, stuck = evidence.table("stuck")
    _, flat_at_both_ends = evidence.table("saturated")
    worst = None
    for path, share, bounded in zip(paths, stuck, flat_at_both_ends, strict=True):
        late = median_of_last(share)
        if np.isnan(bounded).all() and late > 0.5 and (worst is None or late > worst[1]):
            worst = path, late, int(evidence.steps[int(np.argmax(share > 0.5))])
    if worst is None:
        return None
    path, share, step = worst
    return (
        f"Dead units: {share:.0%} of the units of {path} are flat for every row of the probe since step {step}, "
        "and learn nothing. Lower the learning rate, start the biases at 0, or take an activation with a slope below 0."
    )


def saturated_units(evidence: Evidence) -> str | None:
    """At most 90 % of a hidden layer's outputs are saturated, 50 % where a run fails."""
    paths, saturated = evidence.table("saturated")
    hidden = [i for i, path in enumerate(paths) if path != last_layer(evidence)]
    failed = failing(evidence)
    for i in hidden:
        share = middle(saturated[i])
        if share > 0.9 or (share > 0.5 and failed):
            return (
                f"Saturated units: in {paths[i]} {share:.0%} of the outputs lie where the function is flat, so that "
                "next to no delta passes. Scale the inputs to mean 0 and spread 1, and start with smaller weights "
                "(glorot_normal)."
            )
    return None


def vanishing(evidence: Evidence) -> str | None:
    """The delta at the first layer is at least 1e-4 of that at the last."""
    first, last = ends(evidence, "delta")
    share = middle(first[: len(first) // 2 + 1] / last[: len(last) // 2 + 1]) if len(first) else np.nan
    if not share < 1e-4 or dead_units(evidence) or saturated_units(evidence):  # whose consequence it is
        return None
    layers = with_parameters(evidence)
    return (
        f"The delta vanishes: at {layers[0]} it is {share:.0e} of that at {layers[-1]}, so the first layers learn next "
        "to nothing. Take ReLU or tanh for sigmoid, residual connections or normalization, or fewer layers."
    )


def exploding(evidence: Evidence) -> str | None:
    """The delta grows at most 1,000 times through time, and 10,000 times through layers."""
    paths, growth = evidence.table("growth")
    for path, of_layer in zip(paths, growth, strict=True):
        largest = np.nanmax(of_layer) if np.isfinite(of_layer).any() else np.nan
        if largest > 1e3 or (np.isnan(of_layer).any() and evidence.stopped):
            return (
                f"The delta explodes: on its way back through the time steps of {path} it grows {largest:,.0f} times. "
                "Clip the gradient (clip_norm=1), start with smaller recurrent weights (orthogonal), or take a GRU."
            )
    first, last = ends(evidence, "delta")
    growth_of_layers = middle(first / last) if len(first) else np.nan
    if growth_of_layers > 1e4:
        return (
            f"The delta explodes: from the last layer back to the first it grows {growth_of_layers:,.0f} times. "
            "Start with smaller weights (he_normal, glorot_normal), or normalize."
        )
    return None


def bad_start(evidence: Evidence) -> str | None:
    """At step 0 outputs have a spread of at most 10 and at least 1e-3 of the first layer's, and units differ."""
    if not evidence.health or evidence.steps[0] != 0:
        return None
    layers = with_parameters(evidence)
    start = {path: evidence.health[0]["layers"][path] for path in layers}
    advice = "Take an initializer that keeps the spread: he_normal for ReLU, glorot_normal for tanh and sigmoid."
    for path in layers[:-1]:
        alike = start[path].get("alike")
        idle = start[path].get("spread") == 0 and start[path]["gradient"] == 0
        if idle or (alike is not None and alike < 1e-6):
            return f"Bad initial weights: at step 0 all units of {path} do the same, and will go on to. {advice}"
    spreads = [(path, start[path].get("spread")) for path in layers]
    known = [(path, spread) for path, spread in spreads if spread is not None]
    if not known:
        return None
    path, spread = known[-1]
    if spread > 10:
        return (
            f"Bad initial weights: at step 0 the outputs of {path} have a spread of {spread:.3g}, not near 1. {advice}"
        )
    if len(known) > 2 and spread < 1e-3 * known[0][1]:
        return (
            f"Bad initial weights: at step 0 the spread falls from {known[0][1]:.3g} at {known[0][0]} to {spread:.3g} "
            f"at {path}, so the input hardly reaches the output. {advice}"
        )
    return None


def lost_updates(evidence: Evidence) -> str | None:
    """A step changes at least half of the weights that have a gradient."""
    share = lost_share(evidence)
    if not share > 0.5 or vanishing(evidence):  # whose consequence it is
        return None
    return (
        f"Updates are lost: {share:.0%} of the weights with a gradient are the same after a step, since it is smaller "
        "than what their type can hold beside them. Keep the weights in float32, or raise the learning rate."
    )


def lost_share(evidence: Evidence) -> float:
    """The share of weights that a step leaves as they were, while the gradient is above 1 % of its first size."""
    _, kept = evidence.table("kept")
    gradient = np.sqrt(np.nansum(evidence.table("gradient")[1] ** 2, 0))
    if not kept.size:
        return 0.0
    counts = gradient > 0.01 * gradient[0]
    return float(np.median(np.nanmean(kept[:, counts], 0))) if counts.any() else 0.0


def wrong_average(evidence: Evidence) -> str | None:
    """Twice the weights give twice the loss within 1 %, and the gradient is the loss's slope within a factor of 2."""
    batch = evidence.config["run"]["batch_size"]
    for name, what in (("doubled", "loss"), ("doubled_delta", "delta")):
        factor = middle(evidence.figures(name))
        if abs(factor - 2) > 0.01:
            return (
                f"1/N is missing: the {what} does not follow the weights of the examples, which do all averaging "
                f"(twice the weights give {factor:.3g} times the {what}, not 2). Multiply by the weights."
            )
    agreement = middle(evidence.figures("agreement"))
    if not (agreement < 0.5 or agreement > 2):
        return None
    times = 1 / agreement
    n = f", and a batch has {batch}: 1/N is missing" if batch and 0.5 < times / batch < 2 else ""
    return (
        f"The gradient is wrong: it is {times:.3g} times as long as the slope of the loss in its direction{n}. "
        "jaxbp check names the leaf."
    )


def not_shuffled(evidence: Evidence) -> str | None:
    """The targets differ at most twice as much between groups of 32 as in random groups (and 6 standard errors)."""
    data = evidence.data
    if data is None or data.mixing is None or data.mixing_errors is None or data.mixing < 2 or data.mixing_errors < 6:
        return None
    return (
        f"The data are not shuffled: the targets differ {data.mixing:.1f} times as much between the batches of an "
        "epoch as they would by chance. Set run.shuffle=True."
    )


def leak(evidence: Evidence) -> str | None:
    """Test rows occur in the training part as often as its own rows occur twice, within 1 %."""
    data = evidence.data
    if data is None or data.shared < 3 or data.shared / data.tests < data.twins + 0.01:
        return None
    return (
        f"Test rows are in the training part: {data.shared} of {data.tests}, {data.shared / data.tests:.0%}, while "
        f"{data.twins:.1%} of the training rows occur twice there. Split again; the test figures are too good."
    )


def wrong_labels(evidence: Evidence) -> str | None:
    """Of the half that the model is surest of at most 5 % are wrong, or at most 0.7 of the share of all."""
    errors, sure = evidence.figures("errors"), evidence.figures("sure_errors")
    told = (errors > 0.03) & (errors < 0.5)
    cases = dict(evidence.scores)
    if told.any():  # a model whose loss has not fallen is sure of what it does not know
        told &= evidence.losses < 0.7 * evidence.losses[0]
    if told.any():
        cases["probe"] = (evidence.health[0]["rows"], float(errors[told].mean()), float(sure[told].mean()))
    for part, (rows, error, sure_error) in cases.items():
        if 0.03 < error < 0.5 and sure_error > max(0.05, 0.7 * error) and sure_error * rows / 2 > 5:
            return (
                f"Labels are wrong: in the {part} part {sure_error:.0%} are wrong even of the half that the model is "
                f"surest of, beside {error:.0%} of all; a model errs where it is unsure. Look at the worst examples."
            )
    return None


def drowned(evidence: Evidence) -> str | None:
    """The noise scale is at most 100 batches, where a run fails."""
    batch = evidence.config["run"]["batch_size"]
    scale = middle(evidence.figures("noise_scale"))
    failed = failing(evidence)
    if not batch or not failed or not scale > 100 * batch:
        return None
    return (
        f"The gradient drowns in noise: a batch of {scale:,.0f} would hold as much signal as noise, this one has "
        f"{batch}, and {failed}. Raise run.batch_size, or lower the learning rate."
    )


def with_parameters(evidence: Evidence) -> list[str]:
    """The layers that have parameters, in the order of the forward pass."""
    return evidence.table("gradient")[0]


def last_layer(evidence: Evidence) -> str:
    """The layer whose output goes into the loss."""
    return evidence.layers[-1]


def ends(evidence: Evidence, name: str) -> tuple[np.ndarray, np.ndarray]:
    """([lines], [lines]): a figure at the first and at the last layer with parameters; empty where it is one layer."""
    paths, table = evidence.table(name)
    layers = with_parameters(evidence)
    if len(layers) < 2:
        return np.empty(0), np.empty(0)
    return table[paths.index(layers[0])], table[paths.index(layers[-1])]


def middle(values: np.ndarray) -> float:
    """The median of what is known; nan where nothing is."""
    known = values[np.isfinite(values)]
    return float(np.median(known)) if len(known) else np.nan


def median_of_last(values: np.ndarray) -> float:
    """The median of the last quarter."""
    return float(np.median(values[-max(1, len(values) // 4) :]))


RULES = (
    Rule("not finite", "loss", not_finite),
    Rule("labels", "loss", wrong_labels),
    Rule("shuffle", "data", not_shuffled),
    Rule("leak", "data", leak),
    Rule("average", "gradient", wrong_average),
    Rule("vanishing", "delta", vanishing),
    Rule("exploding", "delta", exploding),
    Rule("rate too high", "update", rate_too_high),
    Rule("rate too low", "update", rate_too_low),
    Rule("lost updates", "update", lost_updates),
    Rule("dead", "stuck", dead_units),
    Rule("saturated", "saturated", saturated_units),
    Rule("start", "spread", bad_start),
    Rule("noise", "noise_scale", drowned),
)
