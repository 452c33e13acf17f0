"""Tests that need vLLM: `make test-vllm`, in an environment of its own (.venv-vllm).

    tiny_llama        directory of the model, made once for all tests; also what `vllm serve` and its like take:
                      `[sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(tiny_llama), …]`
    vllm_environment  variables for a process that runs vLLM: nothing is fetched, 1 GiB for the KV cache
    vllm_url          of the tiny model in an engine of this process; `house(m=vllm_url)` shares it

An engine takes many seconds to start. Tests share one: all of them and the fixtures run in one event loop, the
session's. They run one after the other: two engines at once take as long on two cores, and starve each other. Without
vLLM installed the tests are skipped and say so.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from mesh.plugins import Url, load
from services.generator.settings import MODELS
from tests.support import tiny_llama as tiny
from tests.support import vllm_engine
from tests.support.generator import STARTED

# vLLM binds its worker to what cores it finds: of two engines on a small machine both sit on the first.
_UNBOUND = {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1"}
_INSTALLED = importlib.util.find_spec("vllm") is not None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run in the session's loop; let vLLM and its libraries warn; skip where there is none of it, but not in CI."""
    for item in items:
        if Path(__file__).parent not in item.path.parents:
            continue
        item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)
        item.add_marker(pytest.mark.filterwarnings("default"))
        item.add_marker(pytest.mark.timeout(600))
        if not _INSTALLED and os.environ.get("CI") == "true":
            raise pytest.UsageError("vLLM is not installed here, and CI=true lets no test be skipped: run `make vllm`")
        if not _INSTALLED:
            item.add_marker(pytest.mark.skip(reason="vLLM is not installed here; run `make test-vllm`"))


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny Llama, float32, made now."""
    return tiny.make(tmp_path_factory.mktemp("tiny-llama"))


@pytest.fixture(scope="session", autouse=True)
def unbound() -> None:
    """Let engines run where there is room; what is started from here inherits it."""
    os.environ.update(_UNBOUND)


@pytest.fixture(scope="session")
def vllm_environment(unbound: None) -> dict[str, str]:
    """The environment of a process that runs vLLM."""
    return {**os.environ, "HF_HUB_OFFLINE": "1", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1"}


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def vllm_url(tiny_llama: Path, unbound: None) -> AsyncIterator[str]:
    """The engine that the tests share, started and warm."""
    raw = vllm_engine.url(tiny_llama)
    model = load(MODELS, Url.parse(raw)).open(Url.parse(raw))
    await model.start()
    STARTED[raw] = model
    yield raw
    del STARTED[raw]
    await model.close()
