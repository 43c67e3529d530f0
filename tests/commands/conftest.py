"""Commands keep their programs in a folder of the tests, and leave JAX as it was."""

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache


@pytest.fixture(autouse=True)
def programs(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))
    settings = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: jax.config.values[name] for name in settings}
    jax.config.update("jax_compilation_cache_dir", None)  # a test of another room may have run a command
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
