"""Checks at the door: every field of a request is bounded before anything else looks at it.

Each function returns the value it accepts and raises INVALID_FIELD otherwise, with the field's path,
what was given, and what is allowed. Values are quoted shortened: an error must not be as large as
the megabyte that caused it.
"""

from __future__ import annotations

import re
from typing import Final

from weft.errors import Reason, WeftError, error

# C0 and C1 controls except tab, line feed and carriage return; lone surrogates never decode from UTF-8
# but may come out of JSON.
_CONTROL: Final = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")
_LINE_BREAK: Final = re.compile(r"[\n\r]")
MAX_PAGE_SIZE: Final = 1_000


def invalid(field: str, problem: str, **metadata: str | int | float) -> WeftError:
    """The error for a field: ``field: problem``."""
    err = error(Reason.INVALID_FIELD, f"{field}: {problem}", field=field)
    err.metadata.update({key: str(value) for key, value in metadata.items()})
    return err


def shorten(value: str, max_chars: int = 40) -> str:
    """``value`` as it may stand in a message: printable and short."""
    printable = value.encode("unicode_escape").decode("ascii") if _CONTROL.search(value) else value
    return printable if len(printable) <= max_chars else printable[: max_chars - 1] + "…"


def check_text(field: str, value: str, *, max_chars: int, min_chars: int = 1, allow_newlines: bool = True) -> str:
    """Accept text of ``min_chars`` to ``max_chars`` code points without control characters.

    A text of white space alone counts as empty.
    """
    if len(value) > max_chars:
        raise invalid(
            field, f"has {len(value)} characters; at most {max_chars} are allowed; shorten it", length=len(value)
        )
    if min_chars and len(value.strip()) < min_chars:
        raise invalid(field, f"is empty; give at least {min_chars} character(s)", length=len(value))
    bad = _CONTROL.search(value) or (None if allow_newlines else _LINE_BREAK.search(value))
    if bad:
        code_point = f"U+{ord(bad.group()):04X}"
        raise invalid(
            field,
            f"holds the control character {code_point} at position {bad.start()}; remove it",
            code_point=code_point,
            position=bad.start(),
        )
    return value


def check_range(field: str, value: float, low: float, high: float) -> float:
    """Accept ``low`` <= value <= ``high``; NaN is refused."""
    if not low <= value <= high:
        raise invalid(field, f"is {value}; allowed is {low} to {high}", value=value, low=low, high=high)
    return value


def check_name(field: str, value: str, pattern: re.Pattern[str], example: str) -> re.Match[str]:
    """Accept a name that ``pattern`` matches as a whole; ``example`` shows a good one."""
    match = pattern.fullmatch(value) if len(value) <= 2_048 else None
    if match is None:
        raise invalid(field, f"is {shorten(value)!r}; expected a name such as {example!r}", value=shorten(value))
    return match


def check_page(page_size: int, page_token: str, *, default_size: int = 100) -> tuple[int, str]:
    """Return (size, key after which the page begins). Tokens are the last key of the page before."""
    if page_size > MAX_PAGE_SIZE:
        raise invalid("page_size", f"is {page_size}; allowed is 1 to {MAX_PAGE_SIZE}", value=page_size)
    if page_token:
        check_text("page_token", page_token, max_chars=4_096)
    return page_size or default_size, page_token
