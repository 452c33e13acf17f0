"""Questions that ask several things at once, taken apart.

"What is 12 times 7, and when does a session expire?" holds two questions, and each may have its own answer. A new part
begins behind a full stop, question mark or semicolon, at "and" followed by a word that asks or commands, and in
Chinese at commas and 以及. A part that asks nothing by itself belongs to the next one: "I have 3 apples. How many
are 12 times as many?" is one.
"""

from __future__ import annotations

import re
from typing import Final

MAX_PARTS: Final = 4

_ASKING: Final = "what|who|whom|whose|when|where|which|why|how"
_COMMANDS: Final = (
    "is|are|was|were|do|does|did|can|could|will|would|should|tell|give|show|convert|calculate|compute|find|search"
    "|explain|list|describe|add|multiply|divide|subtract"
)
_CJK_AND: Final = "以及|并且|另外|还有"
_BOUNDARY = re.compile(
    r"(?<=[?？!！;；。])\s*|(?<=\.)\s+"
    rf"|,?\s+(?:and|also|then|plus)\s+(?=(?:also |then |in |on |at |by |to |from )?(?:{_ASKING}|{_COMMANDS})\b)"
    rf"|[，、]\s*(?:{_CJK_AND}|同时|然后|而且|和)?|{_CJK_AND}",
    re.IGNORECASE,
)
_ASKS = re.compile(
    rf"\b(?:{_ASKING})\b|^\W*(?:please |also |then )?(?:{_COMMANDS})\b"
    "|什么|谁|哪|几|多少|多[长久大远高快]|何[时地处人]|为何|如何|怎|吗|呢|是否|^(?:请|帮我)?(?:计算|换算|告诉|介绍|解释)",
    re.IGNORECASE,
)


def parts(question: str) -> list[str]:
    """Return the questions within a question, at most MAX_PARTS; one that asks one thing comes back whole."""
    found: list[str] = []
    waiting = ""
    for piece in _BOUNDARY.split(question):
        if not piece or not piece.strip():
            continue
        waiting = f"{waiting} {piece}" if waiting else piece
        if _ASKS.search(piece):
            found.append(waiting.strip())
            waiting = ""
    if waiting and found:
        found[-1] = f"{found[-1]} {waiting.strip()}"
    return found[:MAX_PARTS] if len(found) > 1 else [question]
