"""A turn's log as text, for the stores: one JSON array per write, ``[kind, sequence, fields]`` a line.

Fields stand under their names. A reader passes over names it doesn't know and takes the default of
those that are absent, so replicas of neighbouring releases can take over each other's turns. An
unknown kind is an error: it would leave a hole in the answer.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from typing import Any, Final, TypeVar

from services.orchestrator.records import Entry, Note, Prepared, Prompted
from services.orchestrator.types import (
    Event,
    Failure,
    Finished,
    Retrieved,
    Started,
    TextDelta,
    ToolCallStarted,
    ToolResult,
)
from weft.values import Citation, Degradation, Epoch, FinishReason, Ledger, LedgerEntry, Passage, Usage

T = TypeVar("T")
Fields = Mapping[str, Any]

_ENTRIES: Final = "lines"  # a ledger's entries are stored under another name than theirs: logs have it since the first

_NAMES: Final[Mapping[type[Any], tuple[str, ...]]] = {
    cls: tuple(field.name for field in fields(cls))
    for cls in (
        *(Started, Retrieved, ToolCallStarted, ToolResult, TextDelta, Finished, Prepared, Prompted),
        *(Citation, Degradation, Epoch, Failure, LedgerEntry, Passage, Usage),
    )
}


def dump(entries: Iterable[Entry]) -> str:
    """Entries as text."""
    return _dumps([(_KIND[type(e.event)], e.sequence, e.event) for e in entries])


def load(text: str) -> list[Entry]:
    """Entries again."""
    return [Entry(sequence, _MAKE[kind](data)) for kind, sequence, data in json.loads(text)]


def dump_finished(finished: Finished) -> str:
    """The end of a turn as text."""
    return _dumps(finished)


def load_finished(text: str) -> Finished:
    """The end of a turn again."""
    return _finished(json.loads(text))


def dump_failure(failure: Failure) -> str:
    """A failure as text."""
    return _dumps(failure)


def load_failure(text: str) -> Failure:
    """A failure again."""
    return _plain(Failure)(json.loads(text))


def _encode(value: Any) -> Any:
    names = _NAMES.get(type(value))
    if names is not None:
        return {name: getattr(value, name) for name in names}
    if isinstance(value, Ledger):
        return {"deadline_ms": value.deadline_ms, "elapsed_ms": value.elapsed_ms, _ENTRIES: value.entries}
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} has no place in a turn's log")


_dumps: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), default=_encode).encode


def _plain(cls: type[T]) -> Callable[[Fields], T]:
    """For a record that holds no other records: tuples come back from lists."""
    known = frozenset(_NAMES[cls])

    def make(data: Fields) -> T:
        return cls(**{k: tuple(v) if type(v) is list else v for k, v in data.items() if k in known})

    return make


_passage: Final = _plain(Passage)
_epoch: Final = _plain(Epoch)
_citation: Final = _plain(Citation)
_degradation: Final = _plain(Degradation)
_entry: Final = _plain(LedgerEntry)


def _retrieved(data: Fields) -> Retrieved:
    epoch = data.get("epoch")
    return Retrieved(
        passages=tuple(map(_passage, data["passages"])),
        epoch=_epoch(epoch) if epoch else None,
        query=data["query"],
        degraded=tuple(map(_degradation, data.get("degraded", ()))),
    )


def _tool_result(data: Fields) -> ToolResult:
    failure = data.get("error")
    return _plain(ToolResult)({**data, "error": _plain(Failure)(failure) if failure else None})


def _ledger(data: Fields) -> Ledger:
    entries = tuple(map(_entry, data.get(_ENTRIES, ())))
    return Ledger(data.get("deadline_ms", 0.0), data.get("elapsed_ms", 0.0), entries)


def _finished(data: Fields) -> Finished:
    return _plain(Finished)(
        {
            **data,
            "reason": FinishReason(data["reason"]),
            "citations": tuple(map(_citation, data.get("citations", ()))),
            "usage": _plain(Usage)(data.get("usage", {})),
            "ledger": _ledger(data.get("ledger") or {}),
            "degraded": tuple(map(_degradation, data.get("degraded", ()))),
        }
    )


def _prepared(data: Fields) -> Prepared:
    return Prepared(tuple(map(_degradation, data.get("degraded", ()))))


_KIND: Final[Mapping[type[Event | Note], str]] = {
    Started: "started",
    Retrieved: "retrieved",
    ToolCallStarted: "tool_call",
    ToolResult: "tool_result",
    TextDelta: "delta",
    Finished: "finished",
    Prepared: "prepared",
    Prompted: "prompted",
}
_MAKE: Final[Mapping[str, Callable[[Fields], Event | Note]]] = {
    "started": _plain(Started),
    "retrieved": _retrieved,
    "tool_call": _plain(ToolCallStarted),
    "tool_result": _tool_result,
    "delta": _plain(TextDelta),
    "finished": _finished,
    "prepared": _prepared,
    "prompted": _plain(Prompted),
}
