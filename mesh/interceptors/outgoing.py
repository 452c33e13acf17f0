"""Each outgoing call carries its caller's companions and spends from its deadline.

The hook runs inside the tracing interceptor of ``weft.tracing``. What the caller set explicitly wins.
"""

from __future__ import annotations

from typing import Final

from grpc import aio

from mesh import context, deadline

_NO_CALL_TIMEOUT_S: Final = 30.0  # a call made on nobody's behalf must end some time, too


def prepare(details: aio.ClientCallDetails) -> aio.ClientCallDetails:
    """Add tenant, request id, bucket, route headers, and the time that remains."""
    given = tuple(details.metadata or ())
    present = {key for key, _ in given}
    added = [(key, value) for key, value in context.outgoing_metadata() if key not in present]
    timeout_s = details.timeout
    current = deadline.current()
    if current is not None:
        remaining_s = current.remaining_s()
        timeout_s = remaining_s if timeout_s is None else min(timeout_s, remaining_s)
    elif timeout_s is None:
        timeout_s = _NO_CALL_TIMEOUT_S
    return details._replace(metadata=aio.Metadata(*given, *added), timeout=timeout_s)
