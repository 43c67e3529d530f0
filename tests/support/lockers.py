"""Processes that want one folder at once: python lockers.py FOLDER COUNT TIMES

They are children of one warm process and train by a stub, in the folder's own lock. Prints for each time what
they said, and the process that wrote.
"""

import json
import os
import sys
import time
from pathlib import Path

from jaxbp.errors import InputError
from jaxbp.training.lock import locked


def write_slowly(folder: Path, process: int, rows: int = 5) -> None:
    """A stub of a training: rows that each writer adds to what is there, with time for another to come between."""
    log = folder / "rows"
    log.write_bytes(b"")
    for row in range(rows):
        before = log.read_bytes()
        time.sleep(0.01)
        log.write_bytes(before + b"%d\n" % row)
    (folder / "writer").write_text(str(process))


def rush(folder: Path, count: int) -> list[str]:
    """What `count` processes say that lock the folder at once: "" for the one that writes, the refusal for others."""
    start_read, start_write = os.pipe()
    done_read, done_write = os.pipe()
    children = []
    results = []
    for _ in range(count):
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(start_write)
            os.close(done_write)
            os.read(start_read, 1)  # ends for all at once, when the parent closes its end
            try:
                with locked(folder):
                    write_slowly(folder, os.getpid())
                    os.write(write, b"trained\n")
                    os.read(done_read, 1)  # the lock is held until every other has answered
            except InputError as error:
                os.write(write, f"{error}\n".encode())
            except BaseException as error:
                os.write(write, f"{error!r}\n".encode())
            os._exit(0)
        os.close(write)
        children.append(child)
        results.append(read)
    os.close(start_read)
    os.close(done_read)
    os.close(start_write)
    lines = []
    for read in results:
        with os.fdopen(read) as pipe:
            lines.append(pipe.readline())
    os.close(done_write)
    for child in children:
        os.waitpid(child, 0)
    return ["" if line == "trained\n" else line.strip() for line in lines]


def main(folder: str, count: str, times: str) -> None:
    for i in range(int(times)):
        lines = rush(Path(folder) / str(i), int(count))
        writer = (Path(folder) / str(i) / "writer").read_text()
        print(json.dumps({"lines": lines, "writer": writer}))


if __name__ == "__main__":
    main(*sys.argv[1:])
