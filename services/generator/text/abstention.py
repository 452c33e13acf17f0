"""What is said where the documents hold no answer, in the language of the question."""

from __future__ import annotations

from typing import Final

from services.generator.text import terms

_EN: Final = "The documents hold no answer to this question."
_ZH: Final = "文档中没有这个问题的答案。"


def abstention(question: str) -> str:
    """Return the sentence."""
    return _ZH if any(map(terms.is_cjk, question)) else _EN


def abstains(text: str) -> bool:
    """Whether a whole answer is that sentence."""
    return text.strip().rstrip(".。") in (_EN[:-1], _ZH[:-1])
