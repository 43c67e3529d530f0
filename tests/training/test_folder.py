"""A folder is one run's, or it is left alone; what the run needs is bound to it, and the rest is made again."""

import json
import os
import shutil
from dataclasses import replace

import pytest

import jaxbp
from jaxbp.commands.__main__ import main
from jaxbp.training import checkpoint
from jaxbp.training.folder import RunFolder
from jaxbp.training.fsck import inspect, run_folders
from jaxbp.training.identity import FILE, Identity
from jaxbp.training.loop import train
from jaxbp.training.run import load
from tests.support.faults import planned
from tests.support.runs import make_old, small, weights

pytestmark = pytest.mark.slow
CONFIG = small(epochs=3, checkpoint_seconds=0.0, steps_per_call=3)


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A run, whose steps 15 and 18 have checkpoints."""
    folder = tmp_path_factory.mktemp("original") / "run"
    train(CONFIG, folder)
    return folder


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """A run of another seed."""
    folder = tmp_path_factory.mktemp("other") / "run"
    train(small(epochs=3, seed=1, checkpoint_seconds=0.0, steps_per_call=3), folder)
    return folder


@pytest.fixture
def run(original, tmp_path):
    return shutil.copytree(original, tmp_path / "run")


def refused(work, *args, **options):
    with pytest.raises(jaxbp.InputError) as error:
        work(*args, **options)
    return str(error.value)


def contents(folder):
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def spoil(path):
    file = path / "facts.json"
    file.write_bytes(file.read_bytes().replace(b"1", b"2", 1))


# --- Whose a folder is -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["0000000999", "9", "0000000018 (copy)"])
def test_a_checkpoint_under_another_name_does_not_count(name, run, original):
    shutil.copytree(run / "checkpoints/0000000015", run / "checkpoints" / name)
    if name == "0000000999":
        assert "0000000999 cannot be used: it is of step 15; the training command goes on" in refused(load, run)
    assert weights_at(run, 18) == weights(original)
    train(CONFIG, run)
    assert weights(run) == weights(original)
    assert contents(run).keys() > contents(original).keys()  # it is still there


def weights_at(run, step):
    return b"".join(leaf.tobytes() for leaf in checkpoint.jax.tree.leaves(load(run, step=step).params))


def test_swapped_checkpoints_and_those_of_another_run_are_refused(run, other, tmp_path):
    folder = run / "checkpoints"
    (folder / "0000000018").rename(folder / "aside")
    (folder / "0000000015").rename(folder / "0000000018")
    (folder / "aside").rename(folder / "0000000015")
    assert "0000000018 cannot be used: it is of step 15" in refused(load, run)
    line = refused(train, CONFIG, run)
    assert "no checkpoint in" in line
    assert "(0000000018: it is of step 15; 0000000015: it is of step 18)" in line
    assert "--fresh starts it over" in line
    shutil.rmtree(folder)
    shutil.copytree(other / "checkpoints", folder)
    assert "it is of another run" in refused(load, run)
    assert "it is of another run" in refused(train, CONFIG, run)
    shutil.copyfile(other / FILE, run / FILE)
    assert refused(train, CONFIG, run).startswith(f"{run} holds a run of another config: run.seed was 1 and is 0")


def test_a_run_whose_checkpoints_are_all_damaged_or_gone_stops(run):
    before = contents(run)
    for path in (run / "checkpoints").iterdir():
        (path / ".DS_Store").write_bytes(b"x")
    line = refused(train, CONFIG, run)
    assert "0000000018: its files are not those of its manifest, see .DS_Store" in line
    for path in (run / "checkpoints").iterdir():
        (path / ".DS_Store").unlink()
    assert contents(run) == before
    shutil.rmtree(run / "checkpoints")
    assert "(it is empty): mend that" in refused(train, CONFIG, run)
    train(CONFIG, run, fresh=True)
    assert contents(run).keys() >= {"run.json", "config.json", "metrics.jsonl"}


@pytest.mark.parametrize("fresh", [False, True])
def test_other_peoples_files_are_left_alone(fresh, tmp_path):
    for step in (100, 200, 90000):
        (tmp_path / f"checkpoints/{step}").mkdir(parents=True)
        (tmp_path / f"checkpoints/{step}/model.bin").write_bytes(b"theirs")
    before = contents(tmp_path)
    line = refused(train, CONFIG, tmp_path, fresh=fresh)
    assert line.startswith(f"{tmp_path} is not the folder of one run: it has checkpoints, and run.json, which names")
    (tmp_path / "config.json").write_text('{"architectures": ["theirs"]}')
    before["config.json"] = b'{"architectures": ["theirs"]}'
    assert "it has config.json" in refused(train, CONFIG, tmp_path, fresh=fresh)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("name", ["../victim", "notes.txt", "code/../../victim"])
def test_a_made_up_run_json_deletes_nothing_of_others(name, run, original):
    for file in (run.parent / "victim", run / "notes.txt"):
        file.write_text("precious")
    identity = Identity.read(run)
    replace(identity, clearing=identity.runs, files={name: ("",)}).write(run)
    train(CONFIG, run)
    replace(identity, runs=("../../victim",)).write(run)
    train(CONFIG, run)
    assert (run.parent / "victim").read_text() == (run / "notes.txt").read_text() == "precious"
    assert weights_at(run, None) == weights_at(original, None)


def test_a_start_over_deletes_the_bundle_of_a_failure_and_no_notes_beside_it(run):
    (run / "failure/arrays").mkdir(parents=True)
    for name in ("facts.json", "manifest.json", "arrays/x", "notes.txt"):
        (run / "failure" / name).write_text("x")
    RunFolder(run).start_over()
    assert [file.name for file in (run / "failure").iterdir()] == ["notes.txt"]
    RunFolder(run).start_over()
    assert (run / "failure/notes.txt").read_text() == "x"


NEEDED = ("checkpoints/0000000018/facts.json", "checkpoints/0000000018/manifest.json")


@pytest.mark.parametrize("name", ["run.json", "config.json", "provenance.json", "curves.png", *NEEDED])
def test_a_pipe_in_the_place_of_a_file_holds_nobody_up(name, run, original):
    (run / name).unlink()
    os.mkfifo(run / name)
    assert any(finding.state != "whole" for finding in inspect(run))
    if name in NEEDED:
        assert "is a pipe or a device" in refused(load, run)
    train(CONFIG, run)
    assert weights_at(run, None) == weights_at(original, None)
    assert (run / f"{name}").is_file()


def test_fsck_leaves_out_no_run_for_its_name_or_for_its_lost_files(run, tmp_path):
    names = ("a", "checkpoints_small", "failure_study")
    for name in names:
        shutil.copytree(run, tmp_path / "all" / name)
    for name in ("run.json", "config.json"):
        (tmp_path / "all/a" / name).unlink()
    assert [folder.name for folder in run_folders(tmp_path / "all")] == list(names)


def test_a_start_over_leaves_the_old_run_or_none_and_what_it_has_not_written(run, other, monkeypatch, capsys):
    (run / "notes.txt").write_text("mine")
    (run / "checkpoints/100").mkdir()
    shutil.copytree(other / "checkpoints/0000000015", run / "checkpoints/0000000099")

    class Killed(BaseException):
        pass

    def kill(*_, **__):
        raise Killed

    def killed_in(owner, name):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, kill)
            with pytest.raises(Killed):
                RunFolder(run).start_over()

    killed_in(Identity, "write")
    assert "0000000099 cannot be used: it is of another run" in refused(load, run)
    assert len(weights_at(run, 18)) > 0  # nothing is lost before the rename
    killed_in(checkpoint.shutil, "rmtree")
    assert "--fresh was cut off there" in refused(load, run)
    assert [str(finding) for finding in inspect(run)] == [
        f"  can be made again  {run}: a start-over was cut off: the training command goes on with it"
    ]
    config = small(epochs=1, seed=7)
    train(config, run)
    assert "0000000099 is not what this run has written: it is now refused.0000000099" in capsys.readouterr().out
    assert load(run).config == config
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"0000000006", "100", "refused.0000000099"}
    assert (run / "notes.txt").read_text() == "mine"


# --- What is bound, and what is made again ---------------------------------------------------------------------------


def test_a_damaged_newest_checkpoint_is_not_passed_over_by_readers(run, original, capsys):
    spoil(run / "checkpoints/0000000018")
    line = refused(load, run)
    assert "0000000018 cannot be used: facts.json is not what was written; the training command goes on" in line
    assert "jaxbp.load(run, step=15), in a command --step=15, takes that one" in line
    assert weights_at(run, 15) != weights(original)
    assert "no valid checkpoint in" in refused(load, run, step=14)
    assert main(["evaluate", str(run)]) == 2
    assert main(["evaluate", str(run), "--step=15"]) == 0
    train(CONFIG, run)
    assert "checkpoint 0000000018 is skipped: facts.json is not what was written" in capsys.readouterr().out
    assert weights(run) == weights(original)
    assert (run / "checkpoints/refused.0000000018").is_dir()


def test_short_or_changed_metrics_fall_back_to_the_checkpoint_that_they_fit(run, original, capsys):
    rows = (run / "metrics.jsonl").read_bytes()
    lines = rows.splitlines(keepends=True)
    for damaged in (b"".join(lines[:2]), rows.replace(b'"epoch": 3', b'"epoch": 8')):
        (run / "metrics.jsonl").write_bytes(damaged)
        assert [f.path.name for f in inspect(run) if f.state == "can be made again"] == ["metrics.jsonl"]
        train(CONFIG, run)
        assert "checkpoint 0000000018 is skipped: metrics.jsonl is " in capsys.readouterr().out
        assert (run / "metrics.jsonl").read_bytes() == rows
        assert weights(run) == weights(original)
    (run / "metrics.jsonl").write_bytes(lines[0])
    assert "0000000015: metrics.jsonl is shorter than the checkpoint says" in refused(train, CONFIG, run)


def test_damage_that_can_be_made_again_is_said_and_made_again(run, original, capsys):
    for name in ("config.json", "preparation.json", "provenance.json"):
        (run / name).write_text("[" * 100_000)
    (run / FILE).write_bytes(b"\xff")
    (run / "timing.jsonl").unlink()
    (run / "timing.jsonl").mkdir()
    assert weights(run) == weights(original)
    assert "run.json is missing or damaged, and the checkpoints tell whose the folder is" in capsys.readouterr().out
    train(CONFIG, run)
    assert "timing.jsonl is not what this run has written: it is now refused.timing.jsonl" in capsys.readouterr().out
    for name in ("config.json", "preparation.json", "metrics.jsonl"):
        assert (run / name).read_bytes() == (original / name).read_bytes()
    assert len(json.loads((run / "provenance.json").read_text())) == 2
    assert Identity.read(run).runs == Identity.read(original).runs
    (run / "config.json").unlink()
    train(CONFIG, run)
    assert "config.json cannot be read (No such file or directory): it is written again" in capsys.readouterr().out
    assert "run.seed was 0 and is 5" in refused(train, small(epochs=3, seed=5), run)


def test_a_run_without_a_checkpoint_needs_its_config(run):
    shutil.rmtree(run / "checkpoints")
    identity = Identity.read(run)
    Identity(identity.runs, files=identity.files).write(run)
    (run / "config.json").write_text("{}")
    assert "config.json: is not what was written; no checkpoint has a copy (--fresh" in refused(train, CONFIG, run)


def test_a_save_that_reads_back_as_something_else_leaves_the_one_before(tmp_path, monkeypatch):
    checkpoints = checkpoint.Checkpoints(tmp_path, keep=1)
    tree = {"w": checkpoint.jnp.arange(4.0)}
    checkpoints.save(1, tree, {})
    with monkeypatch.context() as patch:
        save = checkpoint.save_arrays
        patch.setattr(checkpoint, "save_arrays", lambda path, tree: save(path, {"w": tree["w"] + 1}))
        with pytest.raises(OSError, match=r"reads back as something else \(other numbers\)"):
            checkpoints.save(2, tree, {})
    assert [path.name for path, facts in checkpoints.read() if isinstance(facts, dict)] == ["0000000001"]


def test_a_run_of_an_older_version_is_adopted_with_a_line(run, original, capsys):
    make_old(run)
    assert weights(run) == weights(original)
    said = "run.json is missing: the run is of a version that did not name its runs"
    assert said in capsys.readouterr().out
    train(CONFIG, run)
    assert said in capsys.readouterr().out
    assert weights(run) == weights(original)
    assert {finding.state for finding in inspect(run)} == {"whole"}
    assert Identity.read(run).runs[0] in (run / "checkpoints/0000000018/facts.json").read_text()


def test_a_folder_that_takes_nothing_still_shows_its_scores(run, capsys):
    with planned(run, "full", 1):
        assert main(["evaluate", str(run)]) == 2
    out, err = capsys.readouterr()
    assert "test " in out
    assert "accuracy 0." in out
    assert err == f"error: {run}/confusion.png: cannot be written: No space left on device\n"


# --- fsck ------------------------------------------------------------------------------------------------------------


def test_fsck_says_what_is_whole_damaged_or_made_again(run, other, tmp_path, capsys):
    shutil.copytree(other, tmp_path / "more/other")
    assert main(["fsck", str(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{tmp_path}/more/other: whole",
        f"{run}: whole",
        "2 runs, 0 damaged",
    ]
    (run / "provenance.json").unlink()
    (run / "curves.png").write_bytes(b"no picture")
    assert main(["fsck", f"--run={run}"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"{run}: 2 can be made again\n  can be made again  {run}/provenance.json: cannot be read (No")
    assert f"can be made again  {run}/curves.png: is no picture" in out
    (run / "metrics.jsonl").write_bytes(b"")
    before = contents(tmp_path)
    assert main(["fsck", str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert f"damaged            {run}/metrics.jsonl: metrics.jsonl is shorter than the checkpoint says" in out
    assert out.endswith("2 runs, 1 damaged\n")
    assert contents(tmp_path) == before
    assert run_folders(run / "checkpoints") == []
    os.mkdir(tmp_path / "empty")
    assert main(["fsck", str(tmp_path / "empty")]) == 2
    assert main(["fsck", str(tmp_path / "none")]) == 2


def test_a_run_does_not_lie_in_the_folder_of_another(run):
    inside = run / "checkpoints" / "0000000001"
    with pytest.raises(jaxbp.InputError, match="lies in the folder of the run"):
        train(small(), inside)
    assert main(["fsck", str(run)]) == 0


@pytest.mark.parametrize("name", ["scores.json", pytest.param("confusion.png", marks=pytest.mark.nightly)])
def test_a_folder_in_the_place_of_what_a_command_makes_is_put_aside(name, run, capsys):
    (run / name).mkdir()
    assert main(["evaluate", str(run)]) == 0
    assert f"it is now refused.{name}" in capsys.readouterr().out
    assert (run / name).is_file()


@pytest.mark.parametrize("kind", ["link", pytest.param("hard link", marks=pytest.mark.nightly)])
def test_rows_are_not_added_to_the_file_of_another_run(kind, run, tmp_path):
    """A copy of a run whose files are links to the first one's goes on in files of its own."""
    copy = shutil.copytree(run, tmp_path / "copy", copy_function=os.link if kind == "hard link" else os.symlink)
    before = contents(run)
    train(replace(CONFIG, run=replace(CONFIG.run, epochs=4)), copy)
    assert contents(run) == before
    assert (copy / "metrics.jsonl").read_bytes().startswith(before["metrics.jsonl"])
    assert not (copy / "metrics.jsonl").is_symlink()


@pytest.mark.parametrize("name", ["code", "failure", "samples"])
def test_a_start_over_follows_no_link_in_the_place_of_a_folder(name, run, tmp_path):
    theirs = tmp_path / "theirs"
    for file in ("model.py", "facts.json", "manifest.json", "arrays/a", "0000000001.txt"):
        (theirs / file).parent.mkdir(parents=True, exist_ok=True)
        (theirs / file).write_text("mine")
    (run / name).symlink_to(theirs)
    identity = Identity.read(run)
    replace(identity, files=identity.files | {"code/model.py": ("",)}).write(run)
    RunFolder(run).start_over()
    assert len(contents(theirs)) == 5


def test_fsck_takes_no_foreign_folder_for_a_run_and_looks_below_it(run, tmp_path, capsys):
    (tmp_path / "config.json").write_text('{"architectures": ["theirs"]}')
    (tmp_path / "checkpoints/100").mkdir(parents=True)
    (tmp_path / "empty/checkpoints").mkdir(parents=True)
    assert run_folders(tmp_path) == [run]
    assert main(["fsck", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"{run}: whole\n1 run, 0 damaged\n"
