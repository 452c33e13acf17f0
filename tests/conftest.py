"""How the tests share a machine when they run in several processes (``pytest -n 2``, as ``make test`` does).

Tests that bring up whole meshes wait more than they work, but each wants the processors for itself: they go one
after the other in one process. Everything else goes beside them, each file in one piece, so that what a module sets
up is set up once.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

_ROOT = Path(__file__).parent


def pytest_configure() -> None:
    """Hear Ctrl-C in a worker: xdist has it ignored there, and what the tests start would inherit that."""
    if os.environ.get("PYTEST_XDIST_WORKER"):
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Say which tests belong together."""
    for item in items:
        room, *rest = item.path.relative_to(_ROOT).parts
        item.add_marker(pytest.mark.xdist_group(room if room == "e2e" else "/".join((room, *rest))))
