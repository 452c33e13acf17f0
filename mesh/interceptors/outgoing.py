"""Each outgoing call carries its caller's companions and spends from its deadline.

The hook that ``weft.tracing.traced`` takes. What the caller set explicitly wins.
"""

from __future__ import annotations

from typing import Final

from mesh import context, deadline
from weft.tracing import Metadata

_NO_CALL_TIMEOUT_S: Final = 30.0  # a call made on nobody's behalf must end some time, too


def prepare(metadata: Metadata, timeout_s: float | None) -> tuple[Metadata, float | None]:
    """Add tenant, request id, bucket, route headers, and the time that remains."""
    present = {key for key, _ in metadata}
    added = [(key, value) for key, value in context.outgoing_metadata() if key not in present]
    current = deadline.current()
    if current is not None:
        remaining_s = current.remaining_s()
        timeout_s = remaining_s if timeout_s is None else min(timeout_s, remaining_s)
    elif timeout_s is None:
        timeout_s = _NO_CALL_TIMEOUT_S
    return (*metadata, *added), timeout_s
