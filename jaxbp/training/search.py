"""A search: one run for each combination of some keys' values and each seed. Runs of one program go at once.

The folder gets points.jsonl (a line for each run that has ended), table.txt, search.png and best.json.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from jaxbp.config import Config, override, replace_keys, to_json
from jaxbp.data import DataConfig, Splits
from jaxbp.errors import InputError
from jaxbp.files import append_line, as_json, overwrite
from jaxbp.training.folder import RunFolder
from jaxbp.training.identity import POINTS
from jaxbp.training.lock import locked
from jaxbp.training.many import Outcome, Plan, run_many
from jaxbp.training.report.search import Finished, Result, draw_results, judged, results, table
from jaxbp.training.run import fingerprint
from jaxbp.typed import Seed, fits

MOST = 10_000  # runs of a search


@dataclass(frozen=True)
class Point:
    """A run of a search: the texts of the keys that are searched, and the config with them and a seed of its own."""

    keys: dict[str, str]
    config: Config

    def digest(self, data: str) -> str:
        """What tells the run from another one: sha256 of the config and of the data's fingerprint."""
        return hashlib.sha256(json.dumps([to_json(self.config), data], sort_keys=True).encode()).hexdigest()


def search(
    config: Config,
    path: str | Path,
    grid: Mapping[str, Sequence[Any]],
    seeds: int = 1,
    at_once: int = 16,
    fresh: bool = False,
) -> list[Result]:
    """Trains a run for each combination of the grid's values and each of `seeds` seeds; -> results, the best first.

    grid: key of the config -> values, such as {"optimizer.learning_rate": [1e-3, 1e-2]}. Seeds are run.seed and those
    after it. Runs whose programs differ only in numbers are one program, at most `at_once` of them; the others follow
    one another. A run that stops being finite is marked, and the others go on. A run that the folder has already is
    not made again, unless `fresh`. Every run is that of `train` to rounding, but keeps no checkpoint.

    Raises InputError, before anything runs, for a key or a value that the config does not have, a value that is there
    twice, more than MOST runs, a combination that does not fit the data, and a folder of another kind.
    """
    points = list(all_points(config, grid, seeds))
    folder = Path(path)
    with locked(folder):
        if RunFolder(folder).owner():
            raise InputError(f"{folder} is the folder of a run, and a search needs one of its own: --workdir=DIR")
        if fresh:
            for name in (POINTS, "table.txt", "search.png", "best.json"):
                (folder / name).unlink(missing_ok=True)
        data = {point.config.data: point.config.load_data() for point in points}
        prints = {key: fingerprint(splits) for key, splits in data.items()}
        digests = [point.digest(prints[point.config.data]) for point in points]
        done = ended(folder / POINTS)
        groups = grouped([p for p, digest in zip(points, digests, strict=True) if digest not in done], data, at_once)
        count = sum(map(len, groups))
        print(
            f"{len(points)} runs, {len(points) - count} of them done, {len(groups)} programs for the others", flush=True
        )
        with tqdm(total=sum(map(steps, groups, itertools.repeat(data))), unit="step", disable=None) as bar:
            for group in groups:
                splits = data[group[0][0].config.data]
                outcomes = run_many([plan for _, plan in group], splits, bar)
                for (point, _), outcome in zip(group, outcomes, strict=True):
                    keep(folder / POINTS, point, point.digest(prints[point.config.data]), outcome)
        done = ended(folder / POINTS)
        runs = [done[digest]._replace(keys=point.keys) for point, digest in zip(points, digests, strict=True)]
        return reported(folder, points, runs)


def all_points(config: Config, grid: Mapping[str, Sequence[Any]], seeds: int) -> Iterator[Point]:
    """The runs of a search. Raises InputError for what the config does not have, a value twice, and too many runs."""
    if "run.seed" in grid and seeds > 1:
        raise InputError("run.seed is searched already: --seeds must be 1")
    for key, values in grid.items():
        texts = [str(value) for value in values]
        if not texts or len(set(texts)) < len(texts):
            raise InputError(f"--grid {key}: needs values, each once, got '{','.join(texts)}'")
    count = math.prod(map(len, grid.values())) * seeds
    if count > MOST:
        raise InputError(f"--grid and --seeds: a search has at most {MOST:,} runs, got {count:,}")
    keys_of: dict[Config, dict[str, str]] = {}
    for combination in itertools.product(*grid.values()):
        keys = dict(zip(grid, map(str, combination), strict=True))
        changed = override(config, [f"--config.{key}={text}" for key, text in keys.items()])
        twin = keys_of.setdefault(changed, keys)
        if twin is not keys:
            key = next(key for key in keys if keys[key] != twin[key])
            raise InputError(f"--grid {key}: needs values, each once, and '{twin[key]}' is '{keys[key]}'")
        for seed in range(changed.run.seed, changed.run.seed + seeds):
            if not fits(seed, Seed):
                raise InputError(f"--seeds={seeds} from run.seed={changed.run.seed} on goes beyond the largest seed")
            yield Point(keys, replace_keys(changed, {"run.seed": seed}))


def grouped(points: Sequence[Point], data: Mapping[DataConfig, Splits], at_once: int) -> list[list[tuple[Point, Plan]]]:
    """The runs, those of one program together. Raises InputError for a run whose parts do not fit."""
    plans: dict[Config, Plan] = {}
    groups: dict[tuple[DataConfig, str], list[tuple[Point, Plan]]] = {}
    for point in points:
        seedless = replace_keys(point.config, {"run.seed": 0})
        if seedless not in plans:
            plans[seedless] = Plan.of(seedless, data[point.config.data])
        plan = plans[seedless]
        groups.setdefault((point.config.data, plan.outline), []).append((point, plan.seeded(point.config.run.seed)))
    parts = []
    for group in groups.values():
        size = math.ceil(len(group) / math.ceil(len(group) / at_once))  # equal parts
        parts += [group[first : first + size] for first in range(0, len(group), size)]
    return parts


def steps(group: Sequence[tuple[Point, Plan]], data: Mapping[DataConfig, Splits]) -> int:
    """Steps of all runs of a group."""
    run = group[0][0].config.run
    examples = len(data[group[0][0].config.data].train)
    return len(group) * run.epochs * -(-examples // (run.batch_size or examples))


def keep(file: Path, point: Point, digest: str, outcome: Outcome) -> None:
    """Adds the line of a run that has ended."""
    run = {"keys": point.keys, "seed": point.config.run.seed, "failed": outcome.failed, "metrics": outcome.row}
    append_line(file, json.dumps({"point": digest} | run))


def ended(file: Path) -> dict[str, Finished]:
    """The runs of the file by their digests. A line that was cut off is taken out of it: its run is made again."""
    lines = file.read_bytes().splitlines(keepends=True) if file.exists() else []
    runs = {}
    whole = []
    for line in lines:
        with suppress(ValueError, KeyError, TypeError):
            run = json.loads(line)
            runs[run["point"]] = Finished(run["keys"], run["seed"], run["failed"], run["metrics"])
            whole.append(line)
    if len(whole) < len(lines):
        overwrite(file, b"".join(whole))
    return runs


def reported(folder: Path, points: Sequence[Point], runs: Sequence[Finished]) -> list[Result]:
    """Writes and prints what came of the search; -> results, the best first."""
    kind = judged(runs)
    ranking = results(runs, kind)
    text = table(ranking, kind)
    overwrite(folder / "table.txt", f"{text}\n".encode())
    draw_results(ranking, kind, folder / "search.png")
    print(text, flush=True)
    best = ranking[0]
    if best.figures:
        config = next(point.config for point in points if point.keys == best.keys)
        report = {"keys": best.keys, "metrics": best.figures, "config": to_json(config)}
        overwrite(folder / "best.json", as_json(report))
        print(f"best: {' '.join(f'--config.{key}={text}' for key, text in best.keys.items()) or 'the config'}")
    return ranking
