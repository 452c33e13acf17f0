"""Weft's Python SDK.

    import weft

    async with weft.Client() as c:
        answer = await c.ask("What is a control plane?")

``Client`` has four verbs: ``ask``, ``stream``, ``search``, ``ingest``; ``collections`` and ``documents`` are what is
in, ``jobs`` is long work. What they hand back is in ``weft.answers``, what they raise in ``weft.errors``; both trees
can be reached from here. The generated stubs are beside them (``weft.retriever.v1`` and so on) for whoever wants to
speak the wire directly.

Names are loaded when they are first used: importing ``weft`` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from weft.answers import (
        Answer,
        Citation,
        Collection,
        Degradation,
        Document,
        Epoch,
        Event,
        FailedDocument,
        Finished,
        Hit,
        IngestProgress,
        IngestResult,
        Job,
        JobProgress,
        Ledger,
        LedgerEntry,
        Passage,
        Retrieved,
        SearchResult,
        Started,
        StoredDocument,
        TextDelta,
        ToolCall,
        ToolResult,
        Usage,
        as_dict,
    )
    from weft.client import Client
    from weft.errors import (
        Aborted,
        AlreadyExists,
        Cancelled,
        DataLoss,
        DeadlineExceeded,
        FailedPrecondition,
        Internal,
        InvalidArgument,
        MeshAlreadyBound,
        NotFound,
        PermissionDenied,
        Reason,
        ResourceExhausted,
        Unavailable,
        Unimplemented,
        WeftError,
    )
    from weft.turns import TurnStream

_MODULES: Final = ("weft.client", "weft.turns", "weft.answers", "weft.errors")

__all__ = [
    "Aborted",
    "AlreadyExists",
    "Answer",
    "Cancelled",
    "Citation",
    "Client",
    "Collection",
    "DataLoss",
    "DeadlineExceeded",
    "Degradation",
    "Document",
    "Epoch",
    "Event",
    "FailedDocument",
    "FailedPrecondition",
    "Finished",
    "Hit",
    "IngestProgress",
    "IngestResult",
    "Internal",
    "InvalidArgument",
    "Job",
    "JobProgress",
    "Ledger",
    "LedgerEntry",
    "MeshAlreadyBound",
    "NotFound",
    "Passage",
    "PermissionDenied",
    "Reason",
    "ResourceExhausted",
    "Retrieved",
    "SearchResult",
    "Started",
    "StoredDocument",
    "TextDelta",
    "ToolCall",
    "ToolResult",
    "TurnStream",
    "Unavailable",
    "Unimplemented",
    "Usage",
    "WeftError",
    "as_dict",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        for module in map(import_module, _MODULES):
            if name in vars(module):
                return vars(module)[name]
    raise AttributeError(f"module 'weft' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
