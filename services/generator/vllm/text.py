"""Tokens to text, one at a time, ending before a stop string; from an answer's beginning or from where it broke off.

A character may take several tokens: they have no text until it is whole, and none at all where the answer ends first.
The tokens of the prompt and of the answer so far go through the same decoder before the new ones do, so that a resumed
answer reads like the undisturbed one, also where it broke off within a character or within what may be a stop string.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from services.generator.openai.stops import Stops
from services.generator.types import Piece, Resume
from weft.errors import Reason, WeftError, error


class Writing:
    """The text of one answer."""

    def __init__(self, tokenizer: Tokenizer, prompt: Sequence[int], stop: Sequence[str], resume: Resume | None) -> None:
        """Begin behind the prompt, or behind what there is of the answer: `owed` is its text that the caller lacks.

        Raises:
            WeftError: INVALID_FIELD where the caller has more text than the tokens have.
        """
        self._tokenizer = tokenizer
        self._stream: Any = DecodeStream(ids=list(prompt), skip_special_tokens=True)
        self._waiting: list[int] = []
        self.count = 0
        """New tokens taken: those that complete a stop string and the one that ends an answer are among them."""
        said = "".join(map(self._text, resume.output_token_ids)) if resume else ""
        emitted_chars = resume.emitted_chars if resume else 0
        if emitted_chars > len(said):
            raise unusable(
                "resume.emitted_chars", f"is {emitted_chars}, but the tokens so far have {len(said)} characters"
            )
        self._stops = Stops(stop, said[:emitted_chars]) if stop else None
        self.owed = self._pass(said[emitted_chars:])

    @property
    def stopped(self) -> bool:
        """Whether a stop string came."""
        return self._stops is not None and self._stops.found

    def take(self, token_ids: Sequence[int], *, ended: bool) -> Piece | None:
        """Take the next tokens; return what can be said now. The last of those with which the model `ended` its answer
        is counted and is no part of it. After a stop string nothing is taken."""
        text = ""
        for at, token_id in enumerate(token_ids, 1):
            if self.stopped:
                break
            self.count += 1
            if ended and at == len(token_ids):
                break
            self._waiting.append(token_id)
            text += self._pass(self._text(token_id))
        return self._piece(text)

    def rest(self) -> Piece | None:
        """Return what was held back: the answer is at its end. Its last tokens may have no text."""
        text = self._stops.rest() if self._stops is not None else ""
        return Piece(text, tuple(self._waiting)) if text or self._waiting else None

    def _piece(self, text: str) -> Piece | None:
        if not text:
            return None
        token_ids, self._waiting = tuple(self._waiting), []
        return Piece(text, token_ids)

    def _pass(self, text: str) -> str:
        return text if self._stops is None else self._stops.take(text)

    def _text(self, token_id: int) -> str:
        try:
            return self._stream.step(self._tokenizer, token_id) or ""
        except Exception:  # the decoder lost its way in bytes that are no text; nothing before them is affected
            self._stream = DecodeStream(skip_special_tokens=True)
            return self._stream.step(self._tokenizer, token_id) or ""


def unusable(field: str, problem: str) -> WeftError:
    """What is raised for a resumption that can't be."""
    return error(Reason.INVALID_FIELD, f"{field}: {problem}; start the answer anew without `resume`", field=field)
