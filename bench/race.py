"""A race: two ways of doing the same work, and peers, timed interleaved in one process. A suite is a list of races."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import jax

Run = Callable[[], object]  # does the work and waits for its result


@dataclass(frozen=True)
class Race:
    """Functions that do the same work.

    temp_bytes: temporary memory of the compiled hand-written and autodiff programs. repeats: timed calls of a run.
    """

    case: str
    hand: Run
    autodiff: Run
    temp_bytes: tuple[int, int]  # of hand, of autodiff
    peers: dict[str, Run] = field(default_factory=dict)
    repeats: int = 10
    peer_repeats: int = 1


def compiled(
    case: str,
    forms: dict[str, tuple[Callable, tuple]],
    peers: dict[str, Run] | None = None,
    repeats: int = 10,
    peer_repeats: int = 1,
) -> Race:
    """A race of JAX programs, compiled here: "hand", "autodiff" and others, each (function, arguments).

    peers: further ones that are not JAX programs.
    """
    programs = {name: jax.jit(function).lower(*arguments).compile() for name, (function, arguments) in forms.items()}
    runs = {name: partial(finished, programs[name], arguments) for name, (_, arguments) in forms.items()}
    hand, autodiff = runs.pop("hand"), runs.pop("autodiff")
    temp = (temp_bytes(programs["hand"]), temp_bytes(programs["autodiff"]))
    return Race(case, hand, autodiff, temp, runs | (peers or {}), repeats, peer_repeats)


def finished(program: Callable, arguments: tuple) -> object:
    """The program's result, when it is there."""
    return jax.block_until_ready(program(*arguments))


def temp_bytes(program: jax.stages.Compiled) -> int:
    """Temporary memory of a compiled program."""
    return program.memory_analysis().temp_size_in_bytes


def seconds(function: Run) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def interleaved(functions: dict[str, Run], repeats: int) -> dict[str, float]:
    """Milliseconds of each, the minimum of its repeats. After one call each to warm up, they take turns."""
    for function in functions.values():
        function()
    times = [{name: 1e3 * seconds(function) for name, function in functions.items()} for _ in range(repeats)]
    return {name: min(turn[name] for turn in times) for name in functions}


def measure(race: Race, runs: int) -> list[dict]:
    """The rows of one case: one, or with peers one for each of them."""
    pair = {"hand": race.hand, "autodiff": race.autodiff}
    pair_times = [interleaved(pair, race.repeats) for _ in range(runs)]
    peer_times = [interleaved(race.peers, race.peer_repeats) for _ in range(runs)]  # last, since their threads spin on
    times = [pair | peers for pair, peers in zip(pair_times, peer_times, strict=True)]
    median = lambda name: statistics.median(run[name] for run in times)
    ratios = lambda name: sorted(run[name] / run["hand"] for run in times)
    hand_bytes, autodiff_bytes = race.temp_bytes
    autodiff_ratios = ratios("autodiff")
    row = {
        "case": race.case,
        "hand_ms": median("hand"),
        "autodiff_ms": median("autodiff"),
        "time_ratio": statistics.median(autodiff_ratios),
        "time_ratio_range": [autodiff_ratios[0], autodiff_ratios[-1]],
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
