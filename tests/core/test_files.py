"""Files are whole, at the end of a link, or the device itself; an error names the file that was asked for."""

import os
import shutil

import pytest

from jaxbp.files import append_line, held, make_folder, overwrite, set_aside, write_whole


def test_a_link_stays_a_link(tmp_path):
    link = tmp_path / "link.csv"
    link.symlink_to("target.csv")
    write_whole(link, b"1\n")
    assert link.is_symlink()
    assert (tmp_path / "target.csv").read_bytes() == b"1\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link.csv", "target.csv"]


def test_a_pipe_gets_the_content(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_whole(pipe, b"1\n")
    assert os.read(reader, 9) == b"1\n"
    os.close(reader)
    assert pipe.is_fifo()


def test_an_error_names_the_file_that_was_asked_for(tmp_path):
    with pytest.raises(OSError, match="cannot be written") as error:
        write_whole(tmp_path / "missing" / "a.csv", b"")
    assert error.value.filename == f"{tmp_path}/missing/a.csv"


def test_a_pipe_that_nobody_reads_is_an_error_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="cannot be written: it is a pipe, and nobody reads it"):
        write_whole(tmp_path / "pipe", b"1\n")


def plant(kind, path, target):
    """Something at `path` that no run has written."""
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "link":
        path.symlink_to(target)
    elif kind == "folder":
        path.mkdir()
    else:
        path.write_bytes(b"theirs")


@pytest.mark.parametrize("kind", ["pipe", "link", "folder"])
def test_what_is_in_the_place_of_a_file_of_a_run_is_put_aside(kind, tmp_path, capsys):
    (tmp_path / "theirs").write_bytes(b"theirs")
    plant(kind, tmp_path / "curves.png", "theirs")
    overwrite(tmp_path / "curves.png", b"ours")
    overwrite(tmp_path / "curves.png", b"ours again")
    assert (tmp_path / "curves.png").read_bytes() == b"ours again"
    assert (tmp_path / "theirs").read_bytes() == b"theirs"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["curves.png", "refused.curves.png", "theirs"]
    assert "it is now refused.curves.png" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["pipe", "link", "file"])
def test_what_is_in_the_place_of_a_folder_of_a_run_is_put_aside(kind, tmp_path, capsys):
    (tmp_path / "theirs").mkdir()
    plant(kind, tmp_path / "samples", "theirs")
    make_folder(tmp_path / "samples")
    make_folder(tmp_path / "samples")
    (tmp_path / "samples/1").write_bytes(b"ours")
    assert list((tmp_path / "theirs").iterdir()) == []
    assert os.path.lexists(tmp_path / "refused.samples")


WRITERS = {
    "write_whole": lambda folder: write_whole(folder / "a", b"ours"),
    "append_line": lambda folder: append_line(folder / "b", "ours"),
    "make_folder": lambda folder: make_folder(folder / "c"),
    "set_aside": lambda folder: set_aside(folder / "d"),
}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
@pytest.mark.parametrize("change", ["moved", "replaced", "lock deleted", "lock replaced"])
def test_nothing_is_written_below_a_held_folder_once_it_is_another(change, write, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "d").write_text("theirs")
    (folder / ".lock").write_text("")
    with held(folder, folder / ".lock"):
        append_line(folder / "b", "ours")
        if change in ("moved", "replaced"):
            folder.rename(tmp_path / "moved")
        if change == "replaced":
            shutil.copytree(tmp_path / "moved", folder)
        if change.startswith("lock"):
            (folder / ".lock").rename(folder / "old")
        if change == "lock replaced":
            (folder / ".lock").write_text("")
        before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
        with pytest.raises(OSError, match="was moved, replaced or deleted"):
            write(folder)
        assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
        write_whole(tmp_path / "beside", b"1")
    if folder.exists():
        write_whole(folder / "a", b"nobody holds it")
