"""Several processes that train one run: they meet, agree on what only a host knows, and end together.

Process 0 listens at the coordinator's address. The others connect, and all must have the same config and versions.
Then JAX's own runtime (gloo on CPU, NCCL on GPU) carries the numbers. What each host knows for itself, such as a signal
or the time, is exchanged over the connections, between two calls of the program. A second connection from each process
is only watched: where it closes, the process has ended, and this one ends too, even out of a collective that hangs.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import jax

from jaxbp.errors import InputError

SECONDS = 45.0  # to meet
GOODBYE = b"."
RESUME = "the same commands go on from the last checkpoint"


@dataclass
class Team:
    """This process among those of a run; alone where there are no lines to others."""

    process: int = 0
    processes: int = 1
    lines: dict[int, socket.socket] = field(default_factory=dict)  # to process 0, or from it to all others
    watched: dict[int, socket.socket] = field(default_factory=dict)
    log: Path | None = None  # what the runtime's own code prints, dozens of lines

    @property
    def first(self) -> bool:
        """Whether this process writes what a run leaves."""
        return self.process == 0

    def agree(self, value: Any) -> list[Any]:
        """What every process has put in for `value` (plain data), by process. All must call it, in the same order."""
        if not self.lines:
            return [value]
        if not self.first:
            send(self.lines[0], value)
            return list(self._received(0))
        values = [value, *(self._received(process) for process in range(1, self.processes))]
        for line in self.lines.values():
            send(line, values)
        return values

    def _received(self, process: int) -> Any:
        try:
            return receive(self.lines[process])
        except (OSError, ValueError):
            self.end(process)

    def watch(self) -> None:
        """Ends this process as soon as another one has ended without a word."""
        for process, line in self.watched.items():
            threading.Thread(target=self._watch, args=(process, line), daemon=True).start()

    def _watch(self, process: int, line: socket.socket) -> None:
        try:
            words = line.recv(1)
        except OSError:
            words = b""
        if words != GOODBYE:
            self.end(process)

    def end(self, process: int) -> None:
        """Ends this process at once, with one line."""
        line = f"error: process {process} of {self.processes} has ended, and so does this one: {RESUME}"
        print(f"{line} (messages of the runtime: {self.log})", file=sys.stderr, flush=True)
        os._exit(1)

    def __enter__(self) -> Team:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Says goodbye where the run has ended for all, once all are here: process 0 may still have drawn its pictures.

        JAX's runtime aborts a process whose coordinator has gone, so process 0, where that runs, leaves it last.
        After a failure of this process alone it ends at once: JAX's runtime would wait for the others. They see it.
        """
        if not self.watched:
            return
        if error is None or isinstance(error, SystemExit | FloatingPointError):
            self.agree(None)
            for line in self.watched.values():
                line.sendall(GOODBYE)
            if not self.first:
                jax.distributed.shutdown()
            self.agree(None)
            if self.first:
                jax.distributed.shutdown()
            if self.log:
                self.log.unlink(missing_ok=True)
            return
        if isinstance(error, InputError | OSError):
            print(f"error: {error}", file=sys.stderr, flush=True)
            os._exit(2)
        time.sleep(2)  # a collective fails before the watch, which then ends the process, has seen why
        traceback.print_exception(error, file=sys.stderr)
        os._exit(1)


ALONE = Team()


def join(coordinator: str, processes: int, process: int, facts: Mapping[str, Any]) -> Team:
    """Meets the other processes at `coordinator`, HOST:PORT, and starts JAX's runtime among them.

    facts: plain data by name that must be the same in all. Raises InputError, in every process and within a minute,
    where one does not come or has other facts.
    """
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdigit():
        raise InputError(f"--coordinator must be HOST:PORT, got {coordinator}")
    if not 0 <= process < processes:
        raise InputError(f"--process must lie in 0..{processes - 1}, for --processes={processes}, got {process}")
    team = Team(process, processes)
    until = time.monotonic() + SECONDS
    meet = _gather if team.first else _report
    port_of_jax = meet(team, host, int(port), facts, until)
    for line in (*team.lines.values(), *team.watched.values()):
        keep_alive(line)
    team.log = divert(process)
    team.watch()
    jax.config.update("jax_enable_preemption_service", False)  # else SIGTERM does not reach the run
    jax.config.update("jax_enable_recoverability", True)  # else the runtime aborts before the watch says why
    jax.distributed.initialize(
        f"{host}:{port_of_jax}", processes, process, initialization_timeout=30, shutdown_timeout_seconds=30
    )
    return team


def _gather(team: Team, host: str, port: int, facts: Mapping[str, Any], until: float) -> int:
    """Process 0: waits for the two lines of every other process, and tells all the port of JAX's coordinator."""
    try:
        server = socket.create_server((host, port))
    except OSError as error:
        raise InputError(f"--coordinator={host}:{port} cannot be listened at: {error.strerror}") from error
    problems: list[str] = []
    with server:
        while len(team.watched) + len(team.lines) < 2 * (team.processes - 1):
            server.settimeout(max(0.01, until - time.monotonic()))
            try:
                line, _ = server.accept()
                line.settimeout(max(0.01, until - time.monotonic()))
                process, purpose, others = receive(line)
            except (OSError, ValueError):
                missing = sorted(set(range(1, team.processes)) - set(team.lines))
                problems.append(f"of {team.processes} processes {missing} did not come to {host}:{port}")
                break
            (team.lines if purpose == "line" else team.watched)[process] = line
            if purpose == "line" and (text := difference(process, others, facts)):
                problems.append(text)
    with socket.create_server((host, 0)) as free:
        port_of_jax = int(free.getsockname()[1])
    for line in team.lines.values():
        line.settimeout(None)
        send(line, {"problem": problems[0]} if problems else {"port": port_of_jax})
    if problems:
        raise InputError(problems[0])
    return port_of_jax


def _report(team: Team, host: str, port: int, facts: Mapping[str, Any], until: float) -> int:
    """Every other process: connects twice, and is told the port of JAX's coordinator."""
    for purpose, lines in (("line", team.lines), ("watched", team.watched)):
        while True:
            try:
                lines[0] = socket.create_connection((host, port), timeout=max(0.01, until - time.monotonic()))
                break
            except OSError as error:
                if time.monotonic() > until:
                    raise InputError(f"--coordinator={host}:{port} does not answer: {error}") from error
                time.sleep(0.2)
        send(lines[0], [team.process, purpose, dict(facts)])
    team.lines[0].settimeout(SECONDS + 10)
    try:
        answer = receive(team.lines[0])
    except (OSError, ValueError) as error:
        raise InputError(f"--coordinator={host}:{port} has ended") from error
    if "problem" in answer:
        raise InputError(answer["problem"])
    return int(answer["port"])


def difference(process: int, others: Mapping[str, Any], facts: Mapping[str, Any]) -> str | None:
    """The first fact in which a process differs from this one; None where it has the same."""
    for name in sorted(facts.keys() | others.keys()):
        if others.get(name) != facts.get(name):
            return f"process {process} has {name}={others.get(name)}, and process 0 has {facts.get(name)}"
    return None


def divert(process: int) -> Path:
    """Puts what the runtime's own code prints into a new file. What Python prints goes where it went."""
    descriptor, path = tempfile.mkstemp(".log", f"jaxbp-process-{process}-")
    for number, name in ((1, "stdout"), (2, "stderr")):
        getattr(sys, name).flush()
        setattr(sys, name, os.fdopen(os.dup(number), "w", buffering=1, errors="backslashreplace"))
        os.dup2(descriptor, number)
    os.close(descriptor)
    return Path(path)


def from_environment(names: Sequence[str]) -> str | None:
    """The first of these variables that the cluster has set."""
    return next((os.environ[name] for name in names if os.environ.get(name)), None)


def send(line: socket.socket, value: Any) -> None:
    """One line of JSON."""
    line.sendall(json.dumps(value).encode() + b"\n")


def receive(line: socket.socket) -> Any:
    """The value that `send` sent. Raises OSError or ValueError where the line is closed."""
    text = bytearray()
    while not text.endswith(b"\n"):
        byte = line.recv(1)
        if not byte:
            raise ConnectionError("closed")
        text += byte
    return json.loads(text)


def keep_alive(line: socket.socket) -> None:
    """Makes the system close a line within half a minute after the other machine is gone."""
    line.settimeout(None)
    line.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 4)):
        if hasattr(socket, name):
            line.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
