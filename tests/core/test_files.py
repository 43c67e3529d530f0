"""Files are whole, at the end of a link, or the device itself; an error names the file that was asked for."""

import os

import pytest

from jaxbp.files import write_whole


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
