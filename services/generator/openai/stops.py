"""Ends a text before a stop string, also where the string began in what was said before."""

from __future__ import annotations

from collections.abc import Sequence


class Stops:
    """Holds back what may be the beginning of a stop string."""

    def __init__(self, stops: Sequence[str], said: str = "") -> None:
        """`said`: what the caller has already."""
        self._stops = tuple(stops)
        self._keep_chars = max(map(len, self._stops), default=1) - 1
        self._said = self._tail(said)
        self._held = ""
        self.found = False
        """Whether the text has ended."""

    def take(self, text: str) -> str:
        """Take the next text, return what may be said now."""
        if self.found:
            return ""
        window = self._said + self._held + text
        begins = len(self._said)
        found = [(start + len(stop), start) for stop in self._stops if (start := window.find(stop)) >= 0]
        if found:
            self.found = True
            self._held = ""
            return window[begins : max(begins, min(found)[1])]  # the one that is complete first
        ends = max(begins, len(window) - self._keep_chars)
        self._held = window[ends:]
        self._said = self._tail(window[:ends])
        return window[begins:ends]

    def rest(self) -> str:
        """Return what was held back: the text is at its end."""
        held, self._held = self._held, ""
        return held

    def _tail(self, text: str) -> str:
        return text[max(0, len(text) - self._keep_chars) :]
