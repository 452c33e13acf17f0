"""What a turn survives, and what stands in.

    retriever down    -> answer from session and tools          degraded[retrieval] session_and_tools
    tools down        -> answer without them                    degraded[tools]     without_tools
    generator down    -> the best passages themselves           degraded[generation] passages_only
    out of time while the model writes -> what is there so far  degraded[generation] partial_answer
    session store down -> no turn: DEPENDENCY_UNAVAILABLE

A peer's failure is *environmental* when the same request could succeed another time; only those are
survived. A request that is wrong stays an error: whoever names a collection that doesn't exist must not
get an answer without documents.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from services.orchestrator.types import Finished, ToolResult
from weft.errors import InvalidArgument, NotFound, Reason, WeftError
from weft.values import Citation, Degradation, FinishReason, Passage

_REQUEST_FAULTS: Final = (InvalidArgument, NotFound)
_REQUEST_FAULT_REASONS: Final = frozenset({Reason.EPOCH_FOREIGN, Reason.REQUEST_ID_REUSED, Reason.TENANT_INVALID})
_DEFAULT_COLLECTION: Final = "collections/default"
_MAX_PASSAGES: Final = 3
_MAX_PASSAGE_CHARS: Final = 400
_INTRODUCTION: Final = "No answer could be written just now. The passages that fit the question best:"
_NOTHING: Final = "No answer could be written just now, and there is nothing to show instead."


def is_environmental(err: WeftError) -> bool:
    """Whether the fault is not the request's."""
    return not isinstance(err, _REQUEST_FAULTS) and err.reason not in _REQUEST_FAULT_REASONS


def without_retrieval(err: WeftError, collection: str) -> Degradation | None:
    """What to say when a search failed; None where the turn must fail, too. The default collection
    needs no one to have made it: a mesh without documents still has sessions and tools."""
    empty = err.reason == Reason.COLLECTION_NOT_FOUND and collection == _DEFAULT_COLLECTION
    if empty or is_environmental(err):
        return Degradation("retrieval", err.reason, "session_and_tools", err.message)
    return None


def without_tools(err: WeftError) -> Degradation:
    """What to say when the tools service cannot be used."""
    return Degradation("tools", err.reason, "without_tools", err.message)


def passages_only(
    err: WeftError, passages: Sequence[Passage], results: Sequence[ToolResult], degraded: Sequence[Degradation]
) -> Finished:
    """The answer where no model answers: what the tools said, then the best passages, each cited."""
    parts = [result.text for result in results if result.error is None and result.text]
    if passages:
        parts.append(_INTRODUCTION)
    elif not parts:
        parts.append(_NOTHING)
    text, citations = "\n".join(parts), []
    for number, passage in enumerate(passages[:_MAX_PASSAGES], start=1):
        text += f"\n\n[{number}] "
        excerpt = _excerpt(passage.text)
        citations.append(
            Citation(
                passage=passage.name,
                start_char=len(text),
                end_char=len(text) + len(excerpt),
                quote=excerpt.removesuffix("…"),
                title=passage.title,
                section=passage.section,
                page=passage.page,
                source=passage.source,
            )
        )
        text += excerpt
    notice = Degradation("generation", err.reason, "passages_only", err.message)
    return Finished(text, FinishReason.STOP, tuple(citations), degraded=(*degraded, notice))


def partial_answer(err: WeftError, text: str, degraded: Sequence[Degradation]) -> Finished:
    """The answer where the time was over before the model was done."""
    notice = Degradation("generation", err.reason, "partial_answer", err.message)
    return Finished(text, FinishReason.LENGTH, degraded=(*degraded, notice))


def _excerpt(text: str) -> str:
    text = text.strip()
    if len(text) <= _MAX_PASSAGE_CHARS:
        return text
    cut = text.rfind(" ", _MAX_PASSAGE_CHARS // 2, _MAX_PASSAGE_CHARS)
    return text[: cut if cut > 0 else _MAX_PASSAGE_CHARS - 1].rstrip() + "…"
