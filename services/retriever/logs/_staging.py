"""What the logs agree on about what was staged, and about publishing it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from services.retriever.ports import Content
from services.retriever.types import Collection, Document
from weft.errors import Reason, WeftError, error

STAGED_LIFE_S: Final = 3_600.0  # after its last chunks came, a batch that was never published is swept
DELETED_LIFE_S: Final = 86_400.0  # so long it is known when a document was deleted, for uploads that are still waiting
SWEEP_ROWS: Final = 200  # at most in one transaction


def went_away(collection: Collection, contents: Sequence[Content]) -> WeftError:
    """The error of documents whose collection was deleted under them."""
    source = contents[0].document.source
    what = f"{source!r}" if len(contents) == 1 else f"{source!r} and {len(contents) - 1} more"
    return error(
        Reason.COLLECTION_NOT_FOUND,
        f"{collection.key.resource} was deleted while {what} went in; create it and try again",
        collection=collection.key.resource,
    )


def replaced(collection: Collection) -> WeftError:
    """The error of a change to a collection that was deleted, or moved, since it was read."""
    return error(
        Reason.COLLECTION_NOT_FOUND,
        f"{collection.key.resource} was deleted or moved in this moment; look again",
        collection=collection.key.resource,
    )


def same(old: Document, content: Content) -> bool:
    """Whether ``content`` is there already."""
    return not content.copied and old.same_content(content.document)


def overtaken(old: Document, content: Content) -> bool:
    """Whether what is there arrived later than ``content``. Times that lie ahead are of a clock that was wrong."""
    return not content.copied and 0 < content.document.arrived_s < old.arrived_s


def swept() -> WeftError:
    """The error of who comes back to a batch too late."""
    return error(
        Reason.DEPENDENCY_UNAVAILABLE,
        f"the staged content of a document was swept after {STAGED_LIFE_S:.0f} s; send the document again",
        staged_life_s=STAGED_LIFE_S,
    )
