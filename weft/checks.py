"""What the SDK checks before it calls: what the wire could not carry. All else is checked by the services."""

from __future__ import annotations

from weft.errors import Reason, error


def timeout(timeout_s: float) -> float:
    """A deadline in seconds."""
    if not timeout_s > 0 or timeout_s == float("inf"):
        raise error(
            Reason.INVALID_FIELD,
            f"timeout_s is {timeout_s}; allowed are seconds above 0, such as 30",
            field="timeout_s",
            timeout_s=timeout_s,
        )
    return timeout_s


def text(field: str, value: str) -> str:
    """Text that UTF-8 can carry."""
    try:
        value.encode()
    except (AttributeError, UnicodeEncodeError) as exc:
        raise error(Reason.INVALID_FIELD, f"{field} is not text that UTF-8 can carry: {exc}", field=field) from None
    return value


def count(field: str, value: int | None, high: int, low: int = 1) -> int | None:
    """A number that fits its field."""
    if value is not None and not 0 <= value < 2**32:  # the service checks the range, the wire carries this one only
        raise error(Reason.INVALID_FIELD, f"{field}: is {value}; allowed is {low} to {high}", field=field, value=value)
    return value


def resource(kind: str, name: str, field: str) -> str:
    """A resource name, of itself or of the id alone."""
    return name if text(field, name).startswith(f"{kind}/") else f"{kind}/{name}"
