"""How the tests share a machine when they run in several processes (``pytest -n 2``, as ``make test`` does).

Each file stays in one piece (``--dist loadfile``), so that what a module sets up, a mesh say, is set up once; and the
files keep their order (``--no-loadscope-reorder``), so that those which wait most begin first and the quick ones fill
what is left.
"""

from __future__ import annotations

import os
import signal


def pytest_configure() -> None:
    """Hear Ctrl-C in a worker: xdist has it ignored there, and what the tests start would inherit that."""
    if os.environ.get("PYTEST_XDIST_WORKER"):
        signal.signal(signal.SIGINT, signal.default_int_handler)
