"""Where a session begins: at the newest checkpoint of the run in its folder, or at the first step."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jaxbp.devices.cost import activation_bytes
from jaxbp.machine import header
from jaxbp.training.checkpoint import load_arrays
from jaxbp.training.fit import batch_spec, check_length
from jaxbp.training.run import checkpointed
from jaxbp.training.step import State

if TYPE_CHECKING:
    from jaxbp.training.loop import Session


def resumed(session: Session, state: State) -> State:
    """The state of the run in the folder, or `state` where there is none; writes what describes the run."""
    config = session.config
    folder = session.folder
    killed = folder.metrics.is_file()  # a process before this one made steps
    checkpoint = folder.resume(checkpointed(state, config), session.data)
    if checkpoint is None:
        session.records = folder.write(config, session.splits.preparation, None)
        print(first_line(session, state), flush=True)
        if killed:
            again = lost("before it", session.interval())
            print(f"begun again: an earlier start ended before its first checkpoint{again}", flush=True)
        session.team.agree(None)
        return state
    arrays, facts = checkpoint
    session.team.agree(int(arrays["state"].step))
    arrays = session.placement.placed(arrays, state) if session.placement else arrays
    state = arrays["state"]
    done = int(state.step)
    check_length(config, session.model, session.splits, folder.stored()["run"]["epochs"], done)
    session.best = arrays["best"]
    session.facts = {key: facts[key] for key in session.facts}
    session.records = folder.write(config, session.splits.preparation, facts)
    if "run" not in facts and not session.team.lines:
        session.save(state)  # the checkpoint of an older version is not bound to its run
    print(first_line(session, state), flush=True)
    again = lost("after it", facts.get("at_risk", 0.0))
    print(f"resumed at step {done} of {config.run.epochs * session.steps}{again}", flush=True)
    return state


def following(session: Session, state: State) -> State:
    """The state that process 0 has resumed, or `state` where there is none."""
    step = session.team.agree(None)[0]
    if step is None or session.placement is None:
        return state
    path, facts = session.folder.newest(step)
    arrays = session.placement.placed(load_arrays(path / "arrays", checkpointed(state, session.config)), state)
    session.best = arrays["best"]
    session.facts = {key: facts[key] for key in session.facts}
    return arrays["state"]


def first_line(session: Session, state: State) -> str:
    """The header of a run: what it runs on, and what a device keeps between the two passes."""
    config = session.config
    devices = session.placement.row_parts if session.placement else 1
    rows = session.batch_size // config.run.micro_batches // devices
    model = session.placement.of_one_device if session.placement else config.loss.prepared(session.model)
    kept = activation_bytes(model, batch_spec(session.splits, rows))
    return f"{header(state.params)}, {kept:,} bytes of activations" + (" a device" if session.placement else "")


def lost(when: str, seconds: float) -> str:
    """What a process that was killed has lost, for the end of a line; nothing where it had saved all."""
    return f"; what was done {when}, up to {seconds:g} seconds of work, is done again" if seconds else ""
