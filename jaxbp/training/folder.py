"""The run folder: its files, and whether a command may resume the run in it.

run.json (whose the folder is), config.json, preparation.json, code/ (files behind classes of one's own),
provenance.json (one entry a session), metrics.jsonl (no times), timing.jsonl, health.jsonl (of a run that looks at
it), checkpoints/, curves.png, report.html.

What a run needs stands in its checkpoints, bound by their manifests: the arrays, the config, the preparation, the
provenance, and how long the .jsonl files were, with the sha256 of so much of them. The JSON files beside
them are for people and for a run that has no checkpoint yet. Each is written again when it is damaged.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jaxbp.config import Config, from_json, to_json
from jaxbp.core import PyTree
from jaxbp.data.preparation import Preparation
from jaxbp.errors import InputError
from jaxbp.files import as_json, make_folder, overwrite, refuse_address, set_aside
from jaxbp.machine import machine, provenance
from jaxbp.training import own_code
from jaxbp.training.checkpoint import Checkpoints, Damaged, delete_bundle, digest, load_arrays, read_json
from jaxbp.training.fold import Fold  # noqa: F401  JSON names it
from jaxbp.training.identity import FILE, FILES, OLD, POINTS, Identity, owner
from jaxbp.training.lock import locked, reading
from jaxbp.training.logs import LOGS, METRICS, cut, lost_rows, written
from jaxbp.training.settings import check_random_keys

OVER = "--fresh starts it over, --workdir=DIR puts this one elsewhere"  # what helps where a run cannot go on
MAY_CHANGE = (
    r"run\.(epochs|steps_per_call|checkpoint_seconds|keep_checkpoints|keep_programs|sample_every|health_every)"
    r"|run\.(mesh(\..+)?|profile_step|writers)"
    r"|data\.(data\.)?(path|test_path|max_bytes|(train|test)_(images|labels|x|y))"
)
SOURCES = {
    "checkpoints": "is missing or damaged, and the checkpoints tell whose the folder is",
    "old": "is missing: the run is of a version that did not name its runs, so that nothing shows a foreign checkpoint",
}


@dataclass
class Records:
    """What a session has written about its run, for the checkpoints that it makes."""

    identity: Identity
    facts: dict[str, Any]  # config, preparation and provenance, as plain data


@dataclass(frozen=True)
class RunFolder:
    """The files of one run."""

    path: Path

    def __post_init__(self) -> None:
        refuse_address(self.path)

    @property
    def checkpoints(self) -> Checkpoints:
        """Its checkpoints."""
        identity = self.owner()
        return Checkpoints(self.path / "checkpoints", identity.runs if identity else (OLD,))

    @property
    def metrics(self) -> Path:
        """One JSON row an evaluation."""
        return self.path / METRICS

    def locked(self) -> contextlib.AbstractContextManager[None]:
        """This process alone trains here. Raises InputError where another does."""
        return locked(self.path)

    def reading(self) -> contextlib.AbstractContextManager[None]:
        """No checkpoint is deleted meanwhile."""
        return reading(self.path / "checkpoints")

    def owner(self) -> Identity | None:
        """Whose the folder is; None where there is no run in it.

        Where run.json is missing or damaged, the checkpoints tell it. A folder with a config.json of jaxbp and without
        run.json is of a version that had none. Raises InputError for files that look like a run's and are nobody's.
        """
        return owner(self.path)

    def _known(self) -> Identity:
        """The owner. Raises InputError where there is no run in the folder."""
        identity = self.owner()
        if identity is None:
            folds = sorted(self.path.glob("fold_*/config.json"))
            hint = f"; the runs of its folds are {folds[0].parent} and so on" if folds else ""
            raise InputError(f"{self.path} is not a run folder: it has no config.json{hint}")
        if identity.clearing:
            raise InputError(f"{self.path} holds no run: --fresh was cut off there, and the training command goes on")
        return identity

    def stored(self) -> dict[str, Any]:
        """The config of the run as plain data, as the newest checkpoint has it, else config.json.

        Raises InputError where the folder holds no run, or config.json is needed and damaged.
        """
        identity = self._known()
        checkpoints = Checkpoints(self.path / "checkpoints", identity.runs)
        for path in checkpoints.paths():
            with contextlib.suppress(Damaged):
                facts = checkpoints.facts(path)
                if "config" in facts:
                    return dict(facts["config"])
        file = self.path / "config.json"
        try:
            if problem := identity.problem(file, file.name):
                raise Damaged(problem)
            data = read_json(file)
            if not isinstance(data, dict):
                raise Damaged("is no config")
        except Damaged as error:
            raise InputError(f"{file}: {error}; no checkpoint has a copy ({OVER})") from None
        return data

    def config(self, code: bool = False, facts: dict[str, Any] | None = None) -> Config:
        """The resolved config of the run; with `code` after the files in code/ were run, which define its classes.

        facts: those of the checkpoint that is meant; None: the newest. Raises InputError where the folder holds no
        config, or one of classes that are not those of this process.
        """
        data = dict(facts["config"]) if facts and "config" in facts else self.stored()
        kept = data.pop("code", {})
        if code:
            own_code.run_kept(self.path / "code", kept)
        try:
            config = from_json(data)
        except InputError as error:
            if code or not kept:
                raise
            raise self._needs_code(kept, "does not have them") from error
        if kept and set(own_code.digests(own_code.own_files(config)).values()) != set(kept.values()):
            raise self._needs_code(kept, "has them from other code")
        return config

    def _needs_code(self, kept: Iterable[str], but: str) -> InputError:
        files = ", ".join(str(self.path / "code" / name) for name in kept)
        return InputError(
            f"the run in {self.path} needs classes of your own, and this process {but}: jaxbp.load(run, code=True), in "
            f"a command --code, runs the code that the run has kept, {files}"
        )

    def start_over(self) -> None:
        """Makes the folder that of a new run, by one rename, and deletes what the old run has written.

        Raises InputError for a folder with files that are nobody's.
        """
        identity = self.owner()
        if identity:
            clearing = (*identity.runs, *identity.clearing)
            replace(Identity.new(), clearing=clearing, files=identity.files).write(self.path)
            self.finish_start_over()

    def clear(self) -> None:
        """Deletes what the run in the folder has written, if there is one."""
        self.start_over()
        (self.path / FILE).unlink(missing_ok=True)

    def finish_start_over(self) -> None:
        """Deletes what a start-over has left of the old run, where there is something.

        Nothing else is deleted. Of a link only the name goes, and none is followed.
        """
        identity = self.owner()
        if identity is None or not identity.clearing:
            return
        checkpoints = Checkpoints(self.path / "checkpoints", identity.clearing)
        checkpoints.clear()
        for path in checkpoints.paths():
            set_aside(path)
        names = [name for name in (*FILES, *identity.files) if name not in ("checkpoints", "failure")]  # links go first
        for path in [self.path / name for name in names]:
            if path.is_symlink() or path.is_file():
                path.unlink()
        for path in (self.path / "samples").glob("[0-9]" * 10 + ".txt"):
            path.unlink()
        delete_bundle(self.path / "failure")
        if (self.path / "code/__pycache__").is_dir():
            shutil.rmtree(self.path / "code/__pycache__")
        for folder in ("code", "checkpoints", "samples"):
            with contextlib.suppress(OSError):  # it is not there, or holds what is not the run's
                (self.path / folder).rmdir()
        replace(identity, clearing=(), files={}).write(self.path)

    def check_place(self) -> None:
        """Raises InputError for a folder in that of another run, one of a search, and nobody's with a run's files."""
        for above in self.path.absolute().parents:
            if (above / FILE).is_file():
                raise InputError(f"{self.path} lies in the folder of the run {above}: --workdir=DIR puts it elsewhere")
        if self.owner() is None and os.path.lexists(self.path / POINTS):
            raise InputError(f"{self.path} is the folder of a search: --workdir=DIR puts this run elsewhere")

    def check(self, config: Config) -> None:
        """Raises InputError where the folder holds a run of a config that differs in other fields than MAY_CHANGE."""
        identity = self.owner()
        if identity is None or (not identity.saved and not os.path.lexists(self.path / "config.json")):
            return
        stored = self.stored()
        kept = stored.pop("code", {})
        with contextlib.suppress(InputError):  # it may name classes that this process does not know
            stored = to_json(from_json(stored))
        changes = differences(stored, to_json(config))
        if refused := [text for key, text in changes.items() if not re.fullmatch(MAY_CHANGE, key)]:
            raise InputError(f"{self.path} holds a run of another config: {'; '.join(refused)} ({OVER})")
        if changes := differences(kept, own_code.digests(own_code.own_files(config))):
            texts = "; ".join(changes.values())
            raise InputError(f"{self.path} holds a run of another version of your code, {texts} ({OVER})")

    def write(self, config: Config, preparation: Preparation, facts: dict[str, Any] | None) -> Records:
        """Writes what describes the run, and one more entry of provenance; cuts the logs to what `facts` know.

        facts: of the checkpoint where the session begins; None for the first session.
        """
        identity = self._bound()
        sources = own_code.own_files(config)
        code = {"code": own_code.digests(sources)} if sources else {}
        records = {
            "config": to_json(config) | code,
            "preparation": preparation.to_json(),
            "provenance": [*self._sessions(identity, facts), provenance()],
        }
        contents = {f"{name}.json": as_json(data) for name, data in records.items()}
        contents |= {f"code/{name}": file.read_bytes() for name, file in sources.items()}
        files = {}
        for name, content in contents.items():
            file = self.path / name
            if problem := identity.problem(file, name):
                print(f"{file} {problem}: it is written again", flush=True)
            before = () if problem or name not in identity.files else (digest(file),)
            files[name] = tuple(dict.fromkeys((*before, hashlib.sha256(content).hexdigest())))
        identity = replace(identity, files=files, source="file")
        self.path.mkdir(parents=True, exist_ok=True)
        identity.write(self.path)
        if sources:
            make_folder(self.path / "code")
        for name, content in contents.items():
            overwrite(self.path / name, content)
        for name in LOGS:
            cut(self.path / name, facts)
        return Records(identity, json.loads(json.dumps(records)))

    def _bound(self) -> Identity:
        """The identity of the run, a new one for a new run and for one of a version that had none."""
        identity = self.owner() or Identity.new()
        if identity.source != "file":
            print(f"{self.path / FILE} {SOURCES[identity.source]}: it is written", flush=True)
        if identity.source == "old":
            return replace(identity, runs=(*Identity.new().runs, OLD))
        return identity

    def _sessions(self, identity: Identity, facts: dict[str, Any] | None) -> list[Any]:
        """The entries of provenance.json so far, or those that the checkpoint has where the file is damaged."""
        file = self.path / "provenance.json"
        if facts is None:
            return []
        if "provenance" in facts and (identity.problem(file, file.name) or file.name not in identity.files):
            return list(facts["provenance"])
        try:
            return list(read_json(file))
        except (Damaged, TypeError):
            return []

    def save(self, records: Records, step: int, tree: PyTree, facts: dict[str, Any], keep: int) -> None:
        """Writes a checkpoint of the run, with the facts, the records, and how far the logs are."""
        checkpoints = Checkpoints(self.path / "checkpoints", records.identity.runs, keep)
        checkpoints.save(step, tree, facts | records.facts | {"logs": written(self.path)})
        if not records.identity.saved:
            records.identity = replace(records.identity, saved=True)
            records.identity.write(self.path)

    def resume(self, like: PyTree, data: str) -> tuple[PyTree, dict[str, Any]] | None:
        """(arrays, facts) of the newest checkpoint whose rows of metrics are there too; None for a run without one.

        Raises InputError where the data is not the run's, or no checkpoint can be used although there were some.
        """
        identity = self.owner()
        if identity is None:
            return None
        checkpoints = Checkpoints(self.path / "checkpoints", identity.runs)
        refused: dict[Path, str] = {}
        for folder, facts in checkpoints.read():
            problem = str(facts) if isinstance(facts, Damaged) else lost_rows(self.metrics, facts)
            if isinstance(facts, Damaged) or problem:
                refused[folder] = str(problem)
                continue
            if facts["data"] != data:
                raise InputError(f"the data differ from those that the run in {self.path} was made with")
            if changes := differences(facts["machine"], machine()):
                print(f"not bit-exact with the run so far, another machine or version: {'; '.join(changes.values())}")
            check_random_keys(facts["machine"])
            arrays = load_arrays(folder / "arrays", like)
            for newer, text in refused.items():
                print(f"checkpoint {newer.name} is skipped: {text}", flush=True)
                if not checkpoints.owns(newer):
                    set_aside(newer)
            return arrays, facts
        if refused or identity.saved:
            texts = "; ".join(f"{path.name}: {text}" for path, text in refused.items()) or "it is empty"
            raise InputError(
                f"no checkpoint in {checkpoints.folder} can be used, although the run had some ({texts}): mend that, "
                f"or put back a copy, and the run goes on; {OVER}"
            )
        return None

    def newest(self, step: int | None = None) -> tuple[Path, dict[str, Any]]:
        """(folder, facts) of the newest checkpoint, or of that of a step.

        Raises InputError where there is none, or it is damaged: an older one is only taken where it is asked for.
        """
        identity = self._known()
        if identity.source != "file":
            print(f"{self.path / FILE} {SOURCES[identity.source]}: the training command writes it", flush=True)
        for name in identity.files:
            if problem := identity.problem(self.path / name, name):
                print(f"{self.path / name} {problem}: the training command writes it again", flush=True)
        damaged: list[str] = []
        for path, facts in Checkpoints(self.path / "checkpoints", identity.runs).read():
            if step is not None and int(path.name) != step:
                continue
            if isinstance(facts, Damaged):
                damaged.append(f"{path} cannot be used: {facts}")
            elif damaged:
                raise InputError(
                    f"{damaged[0]}; the training command goes on from step {int(path.name)} and makes it again; "
                    f"jaxbp.load(run, step={int(path.name)}), in a command --step={int(path.name)}, takes that one"
                )
            else:
                return path, facts
        if damaged:
            raise InputError(damaged[0])
        raise InputError(f"there is no valid checkpoint in {self.path}" + ("" if step is None else f" of step {step}"))

    def preparation(self, facts: dict[str, Any]) -> Preparation | None:
        """The preparation of the run's data, of which the facts of a checkpoint have a copy.

        Those of an older version have the sha256 of preparation.json, and InputError is raised where the file has
        another; still older ones have nothing, which is None.
        """
        stored = facts.get("preparation")
        if isinstance(stored, str):
            file = self.path / "preparation.json"
            if not file.is_file() or digest(file) != stored:
                raise InputError(f"{file} is missing or damaged: the training command writes it again")
            stored = read_json(file)
        return None if stored is None else Preparation.from_json(stored)


def differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """'run.seed' -> 'run.seed was 0 and is 1' for every leaf in which two nested mappings differ."""
    changes: dict[str, str] = {}
    for key in sorted(old.keys() | new.keys()):
        path = f"{prefix}{key}"
        before = old.get(key)
        after = new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            changes |= differences(before, after, f"{path}.")
        elif json.dumps(before) != json.dumps(after):
            changes[path] = f"{path} was {before} and is {after}"
    return changes
