"""What is said of a model of text."""

from __future__ import annotations

from math import log

from jaxbp.losses import Loss, SoftmaxCrossEntropy


def bits_per_byte(loss: Loss, value: float, item_bytes: float | None) -> dict[str, float]:
    """{"bits_per_byte"} of a mean loss in nats, the same scale for all vocabularies: loss / ln 2 / bytes of a token.

    {} where the data are no text, or the loss is not the plain cross-entropy.
    """
    if item_bytes is None or not isinstance(loss, SoftmaxCrossEntropy) or loss.label_smoothing:
        return {}
    return {"bits_per_byte": value / log(2) / item_bytes}
