"""JSON that a model wrote, made fit for the wire: protobuf's strings are Unicode, its numbers are doubles."""

from __future__ import annotations

import math
import re
from typing import Any, Final

_LONE_SURROGATES: Final = re.compile("[\ud800-\udfff]")
_REPLACEMENT: Final = "\ufffd"


def fit(value: Any) -> Any:
    """The same value, halves of characters replaced by U+FFFD: a model may write ``"\\ud83d"`` alone.

    Raises:
        ValueError: a number is beyond a double's range, or none.
    """
    if isinstance(value, str):
        return _LONE_SURROGATES.sub(_REPLACEMENT, value)
    if isinstance(value, dict):
        return {fit(name): fit(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [fit(inner) for inner in value]
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            finite = math.isfinite(float(value))
        except OverflowError:
            finite = False
        if not finite:
            raise ValueError("a number is beyond the range of a double")
    return value
