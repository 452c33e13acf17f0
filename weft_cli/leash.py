"""Becomes another module, on a leash: ``python -m weft_cli.leash PARENT_PID MODULE [ARGUMENT...]``.

A supervisor that is killed can't end its children. So each child first asks the kernel to be sent
SIGTERM when its parent is gone (Linux: PR_SET_PDEATHSIG, which an exec leaves in place), then makes sure
that the parent hadn't gone before that, and execs the module. Elsewhere than on Linux children of a
killed supervisor stay, and ``weft up`` names the ports that they hold.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Put on the leash and exec."""
    parent_pid, module, *arguments = sys.argv[1:]
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != int(parent_pid):
            raise SystemExit(f"the supervisor, pid {parent_pid}, is gone")
    os.execv(sys.executable, [sys.executable, "-m", module, *arguments])


if __name__ == "__main__":
    main()
