"""Real processes of jaxbp's command that start in no time: children of one that has imported everything and computed
nothing, so that JAX and orbax begin anew in each.

python forks.py reads a request as a line of JSON from its standard input: {"children": [CHILD, ...], "hold": BOOL}.
Its children begin at once. CHILD: {"words": of the command, "folder": of its run, "change": N, "instant": N}; the two
numbers are of a kill by SIGKILL, as the N-th change of the disk below the folder begins, and as the N-th of all events
that Python audits does; 0 for none. With "hold" a child that trains waits, after its first call of the compiled
program, until every other has ended. The answer is a line of JSON: for each child its "process", exit "status" (-9:
killed), "out", "err" and "events" (until its end; 0 where it was killed).
"""

import contextlib
import faulthandler
import gc
import json
import os
import select
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

SECONDS = 250  # that a child may take


class Forks:
    """The server as a test uses it, in a with statement. Its children keep compiled programs in the folder `cache`."""

    def __init__(self, cache: Path) -> None:
        cached = {"JAX_COMPILATION_CACHE_DIR": str(cache), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
        root = Path(__file__).parents[2]
        environment = os.environ | {"PYTHONPATH": str(root)} | cached
        words = [sys.executable, "-W", "ignore", str(Path(__file__))]
        pipe = subprocess.PIPE
        self.server = subprocess.Popen(words, stdin=pipe, stdout=pipe, text=True, env=environment, cwd=root)

    def __enter__(self) -> "Forks":
        return self

    def __exit__(self, *_: object) -> None:
        self.server.communicate()  # closes both, and waits

    def run(self, *children: dict[str, Any], hold: bool = False) -> list[dict[str, Any]]:
        """What became of the children, which begin at once."""
        self.server.stdin.write(json.dumps({"children": children, "hold": hold}) + "\n")
        self.server.stdin.flush()
        answer = self.server.stdout.readline()
        assert answer, "the server has ended"
        return json.loads(answer)


def child(plan: dict[str, Any], output: Path, start: int, others: int | None) -> int:
    """The exit status of the command that the plan names, with its output in files."""
    import signal

    from jaxbp.commands.__main__ import main
    from jaxbp.training import loop
    from tests.support.faults import planned

    os.read(start, 1)  # ends for all children at once, as the server closes the other end
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(output.with_suffix(f".{name}"), os.O_WRONLY | os.O_CREAT, 0o600), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    faulthandler.dump_traceback_later(SECONDS, exit=True)
    if others is not None:
        loop.reached = lambda point: os.read(others, 1)
    events = [0]

    def count(event: str, arguments: tuple) -> None:
        events[0] += 1
        if events[0] == plan.get("instant"):
            os.kill(os.getpid(), signal.SIGKILL)

    sys.argv = ["jaxbp", *plan["words"]]
    with planned(Path(plan["folder"]), signal.SIGKILL, plan.get("change", 0)):
        sys.addaudithook(count)
        try:
            status = main(plan["words"])
        except SystemExit as end:
            status = int(end.code or 0)
    sys.stdout.flush()
    output.with_suffix(".events").write_text(str(events[0]))
    return status


def answer(request: dict[str, Any], folder: Path) -> list[dict[str, Any]]:
    """Starts the children of a request at once, and waits for their ends."""
    begin_read, begin_write = os.pipe()
    hold_read, hold_write = os.pipe()
    processes = {}
    for i, plan in enumerate(request["children"]):
        output = folder / str(i)
        process = os.fork()
        if process == 0:
            os.close(begin_write)
            os.close(hold_write)
            status = 70
            with contextlib.suppress(BaseException):
                status = child(plan, output, begin_read, hold_read if request["hold"] else None)
            os._exit(status)
        processes[process] = output
    os.close(begin_read)
    os.close(hold_read)
    os.close(begin_write)
    statuses: dict[int, int] = {}
    end = time.monotonic() + SECONDS / 2
    while len(statuses) < len(processes) - 1 and time.monotonic() < end:
        process, status = os.waitpid(-1, os.WNOHANG)
        if process:
            statuses[process] = status
        else:
            select.select([], [], [], 0.002)
    os.close(hold_write)
    while len(statuses) < len(processes):
        process, status = os.wait()
        statuses[process] = status
    results = []
    for process, output in processes.items():
        texts = {}
        for name in ("out", "err", "events"):
            file = output.with_suffix(f".{name}")
            texts[name] = file.read_text() if file.exists() else ""
            file.unlink(missing_ok=True)
        status = os.waitstatus_to_exitcode(statuses[process])
        results.append(texts | {"process": process, "status": status, "events": int(texts["events"] or 0)})
    return results


def main() -> None:
    warnings.simplefilter("ignore")
    import orbax.checkpoint  # noqa: F401  what a run imports late
    import sklearn.datasets  # noqa: F401
    from jax._src.xla_bridge import backends_are_initialized

    import jaxbp.commands.__main__
    import jaxbp.commands.train  # noqa: F401
    import tests.support.faults
    import tests.training.test_resume  # noqa: F401

    assert not backends_are_initialized()
    gc.collect()
    gc.freeze()
    with tempfile.TemporaryDirectory() as folder:
        for line in sys.stdin:
            print(json.dumps(answer(json.loads(line), Path(folder))), flush=True)


if __name__ == "__main__":
    main()
