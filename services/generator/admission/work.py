"""What a request will cost, before it has run.

    prompt      about four bytes of UTF-8 a token, and a few for each message: right within a third for the
                tokenizers of today in English, rather too much in Chinese; no tokenizer runs
    output      `max_tokens` where the caller set it, else the mean length of this model's answers

Both are reserved; limits and budgets are settled with the backend's own count afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from services.generator.admission.pace import Pace
from services.generator.types import Request

UNKNOWN_OUTPUT_TOKENS: Final = 256
_BYTES_PER_TOKEN: Final = 4
_TOKENS_PER_MESSAGE: Final = 4


@dataclass(frozen=True, slots=True)
class Work:
    """An estimate, in tokens."""

    prompt_tokens: int
    output_tokens: int

    @property
    def tokens(self) -> int:
        """Both."""
        return self.prompt_tokens + self.output_tokens


def estimate(request: Request, pace: Pace, *, reads_passages: bool) -> Work:
    """Estimate a request. Passages count where the model reads them itself; else they stand in the messages."""
    size = sum(_bytes(message.content) for message in request.messages)
    size += sum(len(tool.name) + _bytes(tool.description) for tool in request.tools)
    if reads_passages:
        size += sum(_bytes(passage.text) for passage in request.passages)
    prompt = size // _BYTES_PER_TOKEN + _TOKENS_PER_MESSAGE * len(request.messages)
    max_tokens = request.sampling.max_tokens
    if max_tokens is None:
        max_tokens = pace.expected_output_tokens(None, UNKNOWN_OUTPUT_TOKENS)
    if request.resume is not None:  # what was said before is read now, and counts towards max_tokens
        said = len(request.resume.output_token_ids)
        return Work(prompt + said, max(1, max_tokens - said))
    return Work(prompt, max(1, max_tokens))


def _bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "replace"))
