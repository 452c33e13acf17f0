"""How long answers take: measured, not assumed.

    mean time of an answer, scaled down where `max_tokens` ends it before the mean length
    time until a newcomer's turn = (mean answers that go before it + 1) x mean time / answers at once, and a fifth

**Per answer, not per token.** What a caller reserves (prompt + max_tokens) is a poor measure of time: `max_tokens` is
most often a ceiling far above what is said, and a prompt's tokens are read many times quicker than an answer's are
written. The time from an answer's start to its end contains all that, as well as how the backend slows down with what
runs beside it. Lengths that differ by tenant or over time are followed by the moving mean.

**Exponentially weighted**: the plain mean of the first answers, later 5 % for each new one, so a change is known after
some twenty. An answer that was left before its end counts once it took longer than the mean: or else a backend that
became too slow for every deadline would never look slower.

**A fifth more** for the wait, because places become free in batches: simulated at three times capacity, 13 to 26 of 100
refused requests had waited for their refusal without it, 6 to 16 with it, and as many were answered. Taking the spread
of the times into account, too, saved work on answers that came too late, but answered fewer where answers are of two
very different lengths: left out.

**Cold**: nothing is known before a first answer is over or left, and nothing is refused on a guess.
"""

from __future__ import annotations

from typing import Final

WEIGHT: Final = 0.05
WAIT_MARGIN: Final = 1.2


class Pace:
    """Moving means over one model's answers.

    Attributes:
        answer_s: how long one takes; 0.0 while unknown.
        output_tokens: how long one is.
        tokens: what one reserved.
    """

    __slots__ = ("_seen", "answer_s", "output_tokens", "tokens")

    def __init__(self) -> None:
        self._seen = 0
        self.answer_s = 0.0
        self.output_tokens = 0.0
        self.tokens = 0.0

    def finished(self, duration_s: float, reserved_tokens: int, output_tokens: int) -> None:
        """Learn from a whole answer."""
        self._seen += 1
        weight = max(WEIGHT, 1 / self._seen)
        self.answer_s += weight * (duration_s - self.answer_s)
        self.tokens += weight * (reserved_tokens - self.tokens)
        self.output_tokens += weight * (output_tokens - self.output_tokens)

    def left(self, duration_s: float) -> None:
        """Learn from an answer that would have taken longer than this."""
        if duration_s > self.answer_s:
            self.answer_s += (WEIGHT if self._seen else 1.0) * (duration_s - self.answer_s)

    def expected_output_tokens(self, max_tokens: int | None, unknown: int) -> int:
        """How long an answer will be; `unknown` before any was measured."""
        expected = round(self.output_tokens) if self._seen else unknown
        return expected if max_tokens is None else min(expected, max_tokens)

    def service_s(self, max_tokens: int | None) -> float:
        """How long an answer will take once its turn came."""
        if max_tokens is None or max_tokens >= self.output_tokens:
            return self.answer_s
        return self.answer_s * max_tokens / self.output_tokens

    def wait_s(self, tokens_ahead: int, at_once: int) -> float:
        """How long until its turn comes, where `at_once` answers run and as many tokens go before it."""
        answers = tokens_ahead / self.tokens if self.tokens else 0.0
        return WAIT_MARGIN * (answers + 1.0) * self.answer_s / at_once
