"""Whatever fails at whatever moment: the run ends in a known way, and the same command ends with the same bytes."""

import gc
import json
import random
import shutil
import signal
from collections import Counter

import pytest

from jaxbp.config import to_json
from jaxbp.errors import InputError
from jaxbp.training.signals import Interrupted
from tests.support.faults import Killed, Warm, as_usual_is_killed, planned
from tests.support.runs import weights
from tests.training.test_resume import config, process

pytestmark = [  # of threads that fail, too
    pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
KINDS = ("kill", "full", "quota", "once", "read", signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@pytest.fixture(scope="module")
def warm():
    with pytest.MonkeyPatch.context() as patch:
        yield Warm(config(epochs=2, evaluate_every=1, batch_size=24), patch)


@pytest.fixture(autouse=True)
def leftovers():
    """What orbax leaves of a save that failed, coroutines that nobody awaits, goes with the test that made it."""
    yield
    gc.collect()


@pytest.fixture(scope="module")
def quiet(warm, tmp_path_factory):
    """The bytes of the run that nothing disturbs."""
    folder = tmp_path_factory.mktemp("runs") / "quiet"
    warm.train(folder)
    return warm.bytes(folder)


@pytest.fixture(scope="module")
def half(warm, tmp_path_factory):
    """A run that was killed in its middle."""
    folder = tmp_path_factory.mktemp("runs") / "half"
    with planned(folder, "kill", 100), pytest.raises(Killed):
        warm.train(folder)
    return folder


def struck(warm, folder, kind, at):
    """How the run ends that the fault meets; None where it ended before the n-th event."""
    with as_usual_is_killed(), planned(folder, kind, at) as plan:
        try:
            warm.train(folder)
            ended = "went on"
        except (Killed, Interrupted, OSError, InputError) as error:
            ended = way(error, folder, kind)
    return ended if plan.struck else None


def way(error, folder, kind):
    """The word for what a run raises. Asserts that it is what a command makes one line of, with the file's name."""
    if kind == "kill" or isinstance(error, Killed):
        return "killed"  # or an executor's thread was, and the run could do nothing but end
    if isinstance(error, Interrupted):
        assert error.code == 128 + kind
        return "saved"
    assert str(folder) in str(getattr(error, "filename", error)), error
    return "one line"


def outcomes(warm, quiet, folder, start, kind, places):
    """{how it ended: times} over the places; asserts that each restart ends with the bytes of the quiet run."""
    counted = Counter()
    for at in places:
        shutil.rmtree(folder, ignore_errors=True)
        if start:
            shutil.copytree(start, folder)
        ended = struck(warm, folder, kind, at)
        if ended is None:
            break
        counted[ended] += 1
        warm.train(folder)
        assert warm.bytes(folder) == quiet, (kind, at)
    return counted


SAMPLES = {"kill": 31, "full": 71, "quota": 131, "once": 61, "read": 29, "SIGTERM": 101, "SIGINT": 101, "SIGHUP": 91}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: getattr(kind, "name", kind))
def test_a_fault_at_some_events_of_a_run(kind, warm, quiet, half, tmp_path, capsys):
    step = SAMPLES[getattr(kind, "name", kind)]
    start = half if kind == "read" else None
    counted = outcomes(warm, quiet, tmp_path / "run", start, kind, range(2, 10_000, step))
    assert counted.total() >= 2
    expected = {"kill": {"killed"}, "full": {"one line"}, "quota": {"one line"}}
    assert counted.keys() <= expected.get(kind, {"one line", "went on", "saved", "killed"})


@pytest.mark.nightly
@pytest.mark.parametrize("resumed", [False, True], ids=["first", "resumed"])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: getattr(kind, "name", kind))
def test_a_fault_at_every_event_of_a_run(kind, resumed, warm, quiet, half, tmp_path, capsys):
    counted = outcomes(warm, quiet, tmp_path / "run", half if resumed else None, kind, range(1, 10_000))
    with capsys.disabled():
        print(f"\n{getattr(kind, 'name', kind)}, {'resumed' if resumed else 'first'}: {dict(counted)}")


@pytest.mark.nightly
def test_a_thousand_kills(warm, quiet, tmp_path, capsys):
    """Each process is killed at a random event, until 1,000 were; a run that ends all the same is compared."""
    chance = random.Random(0)
    folder = tmp_path / "run"
    kills = ended = 0
    while kills < 1000:
        if struck(warm, folder, "kill", chance.randint(1, 120)) == "killed":
            kills += 1
            continue
        assert warm.bytes(folder) == quiet
        shutil.rmtree(folder)
        ended += 1
    warm.train(folder)
    assert warm.bytes(folder) == quiet
    with capsys.disabled():
        print(f"\n{kills} kills, {ended + 1} runs that ended, 0 bytes differ")


CALLS = "rename,renameat,mkdir,unlink,unlinkat,rmdir,fsync,fdatasync,ftruncate,pwrite64"


@pytest.mark.nightly
@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_real_kills_at_system_calls(tmp_path, capsys):
    """SIGKILL by the kernel as the n-th of such calls begins, for every ninth n, in TensorStore's threads too."""
    path = tmp_path / "config.json"
    path.write_text(json.dumps(to_json(config(epochs=2, evaluate_every=1, batch_size=24))))
    assert process(path, tmp_path / "quiet").returncode == 0
    kills = 0
    for at in range(1, 10_000, 9):
        run = tmp_path / f"run{at}"
        inject = f"inject={CALLS}:signal=SIGKILL:when={at}"
        done = process(path, run, before=["strace", "-f", "-qq", "-o", "/dev/null", "-e", inject])
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL, done.stderr
        kills += 1
        assert process(path, run).returncode == 0
        assert (run / "metrics.jsonl").read_bytes() == (tmp_path / "quiet/metrics.jsonl").read_bytes()
        assert weights(run) == weights(tmp_path / "quiet")
    with capsys.disabled():
        print(f"\n{kills} kills at system calls")
    assert kills > 5
