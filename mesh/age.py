"""How long this process has been there: from exec, before any import, to now.

What a cold start takes is mostly imports and models, which a clock that is started in Python doesn't see.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import psutil

_STAT = Path("/proc/self/stat")
_START_TICKS = 19  # of the fields behind the command's name


def age_s() -> float:
    """Seconds since the process was started: to 10 ms on Linux, elsewhere as exactly as the system tells."""
    try:
        fields = _STAT.read_text().rpartition(")")[2].split()
        return time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[_START_TICKS]) / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError, IndexError, ValueError):
        return max(0.0, time.time() - psutil.Process().create_time())
