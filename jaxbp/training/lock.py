"""One process trains in a folder at a time, and whoever reads in it sees whole states.

The locks are flock(2): they end with their process, whatever ends it. On Linux they hold between the hosts of an NFS
share too, where it is mounted with locks (not `nolock` or `local_lock`). Folders cannot be locked there, so that a
reader on NFS may meet a checkpoint that is just being deleted.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from jaxbp.errors import InputError
from jaxbp.files import check_held, held, naming

NAME = ".lock"  # in the folder, while a process trains there
LONGEST = 1000  # bytes of a signed lock
PATIENCE = 10.0  # seconds to wait for a reader, or for a writer


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """This process alone trains in the folder, which is made where it is missing, and writes to no other of its name.

    A folder that was made for the lock, and is still empty at the end, goes again. Raises InputError at once where
    another process, or another thread of this one, trains there; and where the folder cannot be written.
    """
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        descriptor = _lock_file(folder)
    except OSError as error:
        raise InputError(f"{folder} cannot be the folder of a run: {error.strerror}") from error
    try:
        with held(folder, folder / NAME):
            try:
                with naming(folder / NAME):
                    _sign(descriptor)
                yield
            finally:
                with suppress(OSError):  # the folder may have been moved, and another process may train in its place
                    check_held(folder)
                    (folder / NAME).unlink()
                    for path in missing:
                        path.rmdir()
    finally:
        os.close(descriptor)


def _lock_file(folder: Path) -> int:
    """The descriptor of the folder's lock, held by this process. A lock that was deleted meanwhile does not count."""
    path = folder / NAME
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            if os.path.lexists(path) and not _is_lock(path):
                raise InputError(f"{path} is no lock of jaxbp's: --workdir=DIR puts the run elsewhere")
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        except FileNotFoundError:  # whoever had the lock has just taken its empty folder away
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            same = os.path.samestat(os.fstat(descriptor), path.stat())
        except FileNotFoundError:
            same = False
        except OSError as error:
            os.close(descriptor)
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise _taken(folder) from None
            if error.errno in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL):
                raise OSError(error.errno, f"its file system has no locks ({error.strerror})") from error
            raise
        except BaseException:
            os.close(descriptor)
            raise
        if same:
            return descriptor
        os.close(descriptor)


def _is_lock(path: Path) -> bool:
    """Whether a file is empty, or signed as _sign does it."""
    if not stat.S_ISREG(path.lstat().st_mode):
        return False
    content = path.read_bytes() if path.stat().st_size <= LONGEST else b"?"
    with suppress(ValueError, TypeError, RecursionError):
        return not content or set(json.loads(content)) == {"process", "host", "start"}
    return False


def _sign(descriptor: int) -> None:
    """Writes into the lock whose it is."""
    holder = {"process": os.getpid(), "host": socket.gethostname(), "start": datetime.now().astimezone().isoformat()}
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(holder).encode(), 0)


def _taken(folder: Path) -> InputError:
    """The error for a folder in which another process trains. Who has just taken the lock may not have signed it."""
    who = "another process"
    end = time.monotonic() + 1
    while time.monotonic() < end:
        with suppress(OSError, ValueError, KeyError, TypeError):
            holder = json.loads((folder / NAME).read_text())
            start = datetime.fromisoformat(holder["start"]).isoformat(" ", "seconds")
            who = f"process {int(holder['process'])} on {holder['host']}, since {start}"
            break
        time.sleep(0.02)
    return InputError(f"{folder} is in use: {who}, trains there; wait for it or end it, or --workdir=DIR")


@contextmanager
def reading(folder: Path) -> Iterator[None]:
    """Nothing that stands in the folder is deleted meanwhile."""
    with _folder_lock(folder, fcntl.LOCK_SH, PATIENCE):
        yield


@contextmanager
def alone(folder: Path, seconds: float) -> Iterator[bool]:
    """Whether nobody reads in the folder. So many seconds are waited for it, and whoever comes later waits."""
    with _folder_lock(folder, fcntl.LOCK_EX, seconds) as alone:
        yield alone


@contextmanager
def _folder_lock(folder: Path, kind: int, seconds: float) -> Iterator[bool]:
    """Whether the folder could be locked in time; True where there is none, or folders have no locks."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        yield True
        return
    try:
        yield _in_time(descriptor, kind, seconds)
    finally:
        os.close(descriptor)


def _in_time(descriptor: int, kind: int, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= end:
                return False
            time.sleep(0.005)
        except OSError:
            return True
        else:
            return True
