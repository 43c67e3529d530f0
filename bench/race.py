"""Two ways of doing the same work, and peers, timed interleaved in one process: what every bench suite is made of."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import jax


@dataclass(frozen=True)
class Race:
    """Functions without arguments that do the same work and wait for it; temporary bytes of the compiled two."""

    case: str
    hand: Callable[[], object]
    autodiff: Callable[[], object]
    temp_bytes: tuple[int, int]  # hand, autodiff
    peers: dict[str, Callable[[], object]] = field(default_factory=dict)
    repeats: int = 10
    peer_repeats: int = 1


def compiled(case: str, forms: dict[str, tuple[Callable, tuple]], **settings: object) -> Race:
    """Of "hand", "autodiff" and peers, each (a function, its arguments), all compiled before."""
    programs = {name: jax.jit(function).lower(*given).compile() for name, (function, given) in forms.items()}
    waited = lambda name: lambda: jax.block_until_ready(programs[name](*forms[name][1]))
    runs = {name: waited(name) for name in forms}
    temp = tuple(programs[name].memory_analysis().temp_size_in_bytes for name in ("hand", "autodiff"))
    return Race(case, runs.pop("hand"), runs.pop("autodiff"), temp, **{"peers": runs} | settings)


def seconds(function: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def interleaved(functions: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Milliseconds of each, the minimum of its repeats; a first call warms up, and apart from it they take turns."""
    for function in functions.values():
        function()
    times = [{name: 1e3 * seconds(function) for name, function in functions.items()} for _ in range(repeats)]
    return {name: min(turn[name] for turn in times) for name in functions}


def measure(race: Race, runs: int) -> list[dict]:
    """The rows of one case: one, and one for each further peer."""
    pair = {"hand": race.hand, "autodiff": race.autodiff}
    ours = [interleaved(pair, race.repeats) for _ in range(runs)]
    peers = [interleaved(race.peers, race.peer_repeats) for _ in range(runs)]  # after, since their threads spin on
    best = [one | other for one, other in zip(ours, peers, strict=True)]
    median = lambda name: statistics.median(run[name] for run in best)
    ratios = lambda name: sorted(run[name] / run["hand"] for run in best)
    hand_bytes, autodiff_bytes = race.temp_bytes
    against = ratios("autodiff")
    row = {
        "case": race.case,
        "hand_ms": median("hand"),
        "autodiff_ms": median("autodiff"),
        "time_ratio": statistics.median(against),
        "time_ratio_range": [against[0], against[-1]],
        "hand_temp_bytes": hand_bytes,
        "autodiff_temp_bytes": autodiff_bytes,
        "temp_ratio": autodiff_bytes / hand_bytes if hand_bytes else None,
    }
    peer = lambda name: {"peer": name, "peer_ms": median(name), "peer_ratio": statistics.median(ratios(name))}
    return [row | peer(name) for name in race.peers] or [row]


def show(row: dict) -> str:
    """One row for the terminal."""
    peer = f"   {row['peer']} / hand {row['peer_ratio']:.2f}" if "peer" in row else ""
    low, high = row["time_ratio_range"]
    memory = "   -" if row["temp_ratio"] is None else f"{row['temp_ratio']:4.2f}"
    return (
        f"{row['case']:34s} hand {row['hand_ms']:9.3f} ms   autodiff / hand: time {row['time_ratio']:.2f} "
        f"({low:.2f}-{high:.2f})   temporary bytes {memory}{peer}"
    )
