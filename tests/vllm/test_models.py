"""What every model does, done by vLLM's engine in this process."""

from __future__ import annotations

from typing import Any

import pytest

from tests.conformance.test_generator_models import *  # noqa: F403

RESUMABLE: Any = {"vllm": ""}
NOT_RESUMABLE: Any = {}
MODELS: Any = RESUMABLE
FAILING: Any = {}  # how it fails is told in test_process.py


@pytest.fixture
def url(request: pytest.FixtureRequest, vllm_url: str) -> str:
    return vllm_url


resumable = once = failing = url
