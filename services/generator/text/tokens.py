"""A simple count of tokens, for models that have no tokenizer, and what follows from it.

One token is a word or a number, a Chinese character, or any other visible sign, with the white space before it. White
space at the very end is one too, so that the tokens of a text joined are the text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final

from services.generator.text.terms import CJK

PHRASE_TOKENS: Final = 6
_KINDS: Final = bytes(
    b"a"[0] if char.isalnum() else b" "[0] if char.isspace() else b"."[0] for char in map(chr, range(256))
)  # of an ASCII text's characters: of a word, white space, a sign
_CJK_RUN = re.compile(rf"[{CJK}]+")
_TOKEN = re.compile(rf"\s*(?:[{CJK}]|[^\W_{CJK}]+|\S)|\s+\Z")


def tokens(text: str) -> list[str]:
    """Cut a text into tokens."""
    return _TOKEN.findall(text)


def count(text: str) -> int:
    """Return how many tokens a text has."""
    if not text.isascii():
        rest, runs = _CJK_RUN.subn(" ", text)
        return len(text) - len(rest) + runs + len(_TOKEN.findall(rest.rstrip())) + text[-1].isspace()
    kinds = text.encode("ascii").translate(_KINDS)
    return kinds.count(b".") + len(kinds.replace(b".", b" ").split()) + kinds.endswith(b" ")


def phrases(text: str) -> Iterator[tuple[str, int]]:
    """Cut a text into pieces to stream, each with its number of tokens."""
    found = tokens(text)
    for start in range(0, len(found), PHRASE_TOKENS):
        group = found[start : start + PHRASE_TOKENS]
        yield "".join(group), len(group)


def cut_at_stop(text: str, stop: Sequence[str]) -> str:
    """Return what stands before the first stop string."""
    found = [position for word in stop if (position := text.find(word)) >= 0]
    return text[: min(found)] if found else text


def cut_at_tokens(text: str, max_tokens: int | None) -> str:
    """Return the first `max_tokens` tokens, or all with None."""
    if max_tokens is None or len(text) <= max_tokens:  # no token is without characters
        return text
    return "".join(tokens(text)[:max_tokens])
