"""A whole answer as it is kept: JSON, its pieces joined to fewer.

    {"prompt": [ids] or null, "pieces": [[text, [ids]], …], "end": {…}}

Played back it is what the model yielded: the prompt's token ids, pieces with the text and the ids of the answer, the
end with its citations. The end says that it was kept, and its usage that all of its input came from a cache; the
answer's length in tokens stands as it was, and what it cost then is not paid again.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Final

from services.generator.types import End, ModelEvent, Piece, Prompt
from weft.values import Citation, FinishReason, Usage

MAX_BYTES: Final = 1 << 20  # of an answer that is kept or shared
PIECE_CHARS: Final = 512  # of a piece that is played back, at the least; the last may be shorter
_KEPT: Final = frozenset({FinishReason.STOP, FinishReason.LENGTH, FinishReason.ABSTAINED})


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model said, from beginning to end."""

    prompt: Prompt | None
    pieces: tuple[Piece, ...]
    end: End

    def events(self) -> Iterator[ModelEvent]:
        """Play it back."""
        if self.prompt is not None:
            yield self.prompt
        yield from self.pieces
        yield kept(self.end)


def kept(end: End) -> End:
    """The end, as of an answer that nobody had to compute."""
    usage = replace(end.usage, cached_tokens=end.usage.input_tokens, cost_micros=0)
    return replace(end, usage=usage, cached=True)


def recorded(events: Iterable[ModelEvent]) -> Answer | None:
    """The answer that a model gave; None where it is not one to keep."""
    prompt: Prompt | None = None
    pieces: list[Piece] = []
    texts: list[str] = []
    ids: list[int] = []
    chars = 0
    for event in events:
        if isinstance(event, Prompt):
            prompt = event
        elif isinstance(event, Piece):
            texts.append(event.text)
            ids += event.token_ids
            chars += len(event.text)
            if chars >= PIECE_CHARS:
                pieces.append(Piece("".join(texts), tuple(ids)))
                texts, ids, chars = [], [], 0
        else:
            if texts:
                pieces.append(Piece("".join(texts), tuple(ids)))
            return Answer(prompt, tuple(pieces), event) if event.reason in _KEPT and not event.tool_calls else None
    return None


def to_bytes(answer: Answer) -> bytes:
    """Write it."""
    end = answer.end
    body = {
        "prompt": None if answer.prompt is None else answer.prompt.token_ids,
        "pieces": [[piece.text, piece.token_ids] for piece in answer.pieces],
        "end": {
            "reason": end.reason.value,
            "usage": asdict(end.usage),
            "citations": [asdict(citation) for citation in end.citations],
        },
    }
    return json.dumps(body, separators=(",", ":")).encode()


def from_bytes(data: bytes) -> Answer:
    """Read it.

    Raises:
        ValueError: it is not an answer that ``to_bytes`` wrote.
    """
    try:
        body = json.loads(data)
        prompt, end = body["prompt"], body["end"]
        return Answer(
            prompt=None if prompt is None else Prompt(tuple(prompt)),
            pieces=tuple(Piece(text, tuple(token_ids)) for text, token_ids in body["pieces"]),
            end=End(
                FinishReason(end["reason"]),
                Usage(**end["usage"]),
                tuple(Citation(**citation) for citation in end["citations"]),
            ),
        )
    except (KeyError, TypeError, ValueError, RecursionError) as err:
        raise ValueError(f"not a kept answer: {err!r}") from err
