"""Pictures of runs that tests need not draw again: drawing takes a third of a small run's time."""

from collections.abc import Callable, Sequence
from math import isfinite
from pathlib import Path

from jaxbp.training.report import curves


def drawn_once(
    draw_curves: Callable[[Sequence[curves.Row], Path], None],
) -> Callable[[Sequence[curves.Row], Path], None]:
    """draw_curves, which draws the first run of each kind; other runs of the kind have that picture.

    Of one kind are runs with the same figures, whose numbers are all finite or not, and all positive or not.
    """
    pictures: dict[tuple, bytes] = {}

    def draw(rows: Sequence[curves.Row], path: Path) -> None:
        names = sorted(name for name in rows[0] if name.endswith(("loss", "accuracy")))
        numbers = [row[name] for row in rows for name in names]
        kind = (*names, len(rows) > 1, all(map(isfinite, numbers)), all(number > 0 for number in numbers))
        if kind in pictures:
            curves.overwrite(path, pictures[kind])
        else:
            draw_curves(rows, path)
            pictures[kind] = path.read_bytes()

    return draw
