"""Puts an answer together from tools' results and sentences of the passages, and keeps track of what rests on what.

    Draft.say(text)                what a tool found out
    Draft.cite(passage, sentence)  a sentence, word for word, with its citation
    Draft.cut(...)                 stop strings and the limit of tokens

Offsets are code points of the whole text. Sentences are joined by a space, by nothing behind a Chinese full stop, and
by an empty line where a listing, a table or a list stands; what a tool found out has a line of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from services.generator.text import terms
from services.generator.text.sentences import Kind, Sentence
from services.generator.text.tokens import cut_at_stop, cut_at_tokens
from weft.values import Citation, Passage

_BLOCKS = (Kind.CODE, Kind.TABLE)


class Draft:
    """An answer that grows part by part."""

    def __init__(self) -> None:
        self.text = ""
        self._citations: list[Citation] = []
        self._said: list[frozenset[str]] = []
        self._after_block = False
        self._after_said = False

    def say(self, text: str) -> None:
        """Append text that rests on no passage."""
        text = text.strip()
        if text:
            self._append(text, block="\n" in text, said=True)

    def cite(self, passage: Passage, sentence: Sentence) -> None:
        """Append a sentence of a passage, unless an earlier one says all that it says."""
        quote = passage.text[sentence.start : sentence.end]
        words = terms.words(quote)
        if any(words <= said for said in self._said):
            return
        self._said.append(words)
        start = self._append(quote, block=sentence.kind in _BLOCKS or ":\n" in quote)
        self._citations.append(
            Citation(
                passage=passage.name,
                start_char=start,
                end_char=len(self.text),
                quote=quote,
                title=passage.title,
                section=passage.section,
                page=passage.page,
                source=passage.source,
            )
        )

    def cut(self, stop: Sequence[str], max_tokens: int | None) -> bool:
        """End the text at a stop string or at the limit; returns whether the limit cut it."""
        stopped = cut_at_stop(self.text, stop)
        self.text = cut_at_tokens(stopped, max_tokens)
        return len(self.text) < len(stopped)

    @property
    def citations(self) -> tuple[Citation, ...]:
        """The citations of the text as it stands, by start."""
        length = len(self.text)
        return tuple(
            replace(citation, end_char=length, quote=citation.quote[: length - citation.start_char])
            if citation.end_char > length
            else citation
            for citation in self._citations
            if citation.start_char < length
        )

    def _append(self, text: str, *, block: bool, said: bool = False) -> int:
        if block or self._after_block:
            gap = "\n\n"
        elif said or self._after_said:
            gap = "\n"
        else:
            gap = "" if self.text[-1:] > "\u2fff" else " "
        self.text += gap if self.text else ""
        self._after_block, self._after_said = block, said
        start = len(self.text)
        self.text += text
        return start
