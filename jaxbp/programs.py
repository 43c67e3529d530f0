"""Compiled programs are kept between processes, so that a second start of an experiment compiles nothing.

JAX's persistent cache does it. A program is code for one kind of processor, so each kind has a folder of its own.
"""

from __future__ import annotations

import hashlib
import os
import platform
import time
from pathlib import Path

import jax

from jaxbp.config import Config

DAYS = 30  # without use, after which a program is deleted


def keep_programs(config: Config) -> None:
    """Keeps what this process compiles from now on, and takes what is kept, unless run.keep_programs is False.

    A folder that JAX itself was told to use stays in use. Where the user's cache cannot be written, nothing is kept.
    """
    if not config.run.keep_programs or jax.config.values["jax_compilation_cache_dir"]:
        return
    try:
        folder = programs_folder()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for program in folder.glob("*-cache"):
            if time.time() - program.stat().st_atime > DAYS * 24 * 3600:
                program.unlink(missing_ok=True)
    except (OSError, RuntimeError):  # the latter where there is no home
        return
    if os.access(folder, os.W_OK):
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def programs_folder() -> Path:
    """$XDG_CACHE_HOME/jaxbp/programs/PROCESSOR, or the same below ~/.cache."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else ()
    facts = {line for line in lines if line.startswith(("model name", "flags", "Features"))}
    processor = hashlib.sha256("\n".join([platform.machine(), *sorted(facts)]).encode()).hexdigest()[:16]
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jaxbp" / "programs" / processor
