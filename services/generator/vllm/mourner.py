"""Ends the engine's processes when this one is killed: nobody else would, and they'd keep the model's memory.

vLLM's children end when they are told to. A process that is killed with -9 tells nobody, and whatever is started in its
place finds the memory of the GPU taken. So a small process holds the other end of a pipe. The kernel closes our end
with us, however we end; then it kills whoever of the engine is still there. (psutil knows a process by its number and
its time of birth, and kills no other one that was given the number since.)
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable
from contextlib import suppress
from typing import Final

_CLOSE_S: Final = 5.0
_CODE: Final = """
import sys
from contextlib import suppress
import psutil
children = []
for number in sys.argv[1:]:
    with suppress(psutil.Error):
        children.append(psutil.Process(int(number)))
sys.stdin.buffer.read()
for child in children:
    with suppress(psutil.Error):
        child.kill()
"""


class Mourner:
    """Watches over this process on behalf of its children."""

    def __init__(self, children: Iterable[int]) -> None:
        """Begin; the children are named by their numbers."""
        self._process = subprocess.Popen(
            [sys.executable, "-c", _CODE, *map(str, children)], stdin=subprocess.PIPE, start_new_session=True
        )

    def close(self) -> None:
        """End what is left of the children, and the watch."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_CLOSE_S)
