"""Which of the good sentences answer a question that leans on the one before.

- What an earlier answer has said counts for less, and is not added to a better sentence.
- Nothing is added from another passage than the best sentence's: it may be about another thing.
- A question without any word of its own asks for a reason ("Why?"), for what was not said yet ("Tell me more"), or
  again for what the one before asked for ("And how do I do it?"): that must be in the sentence itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Final

from services.generator.text.grounding import Candidate
from services.generator.text.terms import Question

SAID_FACTOR: Final = 0.8  # of the score of a sentence that an earlier answer has said

_WHY = re.compile(r"\bwhy\b|\bhow (?:so|come)\b|为什么|为何", re.IGNORECASE)
_MORE = re.compile(r"\b(?:more|else|go on|continue)\b|还有|更多|继续", re.IGNORECASE)
_REASON = re.compile(
    r"\b(?:because|since|due to|owing to|thanks to|so that|in order to|therefore|hence|otherwise|reasons?)\b"
    "|因为|由于|因此|所以|以便|为了|否则|原因",
    re.IGNORECASE,
)


def going_on(
    question: str, read: Question, good: Sequence[Candidate], answered: str, quote: Callable[[Candidate], str]
) -> list[Candidate]:
    """Return the sentences to choose from, best first.

    Args:
        question: As it was asked.
        read: Its own terms.
        good: Sentences that answer it, best first.
        answered: What earlier answers have said.
        quote: Gives a sentence's text.
    """
    said = {candidate for candidate in good if quote(candidate) in answered}
    left = list(good)
    if not read.telling:
        if _WHY.search(question) and not read.terms:
            left = [candidate for candidate in good if _REASON.search(quote(candidate))]
        elif _MORE.search(question):
            left = [candidate for candidate in good if candidate not in said]
        else:
            left = [candidate for candidate in good if candidate.share]
    if not left:
        return []
    best = max(left, key=lambda candidate: candidate.score * (SAID_FACTOR if candidate in said else 1.0))
    return [best, *(other for other in left if other not in said and other != best and other.passage == best.passage)]
