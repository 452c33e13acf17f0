"""Errors that more than one room raises."""

from __future__ import annotations

from services.retriever.types import CollectionKey
from weft.errors import Reason, WeftError, error


def unknown_collection(key: CollectionKey) -> WeftError:
    """The error of a collection that isn't there."""
    return error(
        Reason.COLLECTION_NOT_FOUND,
        f"there is no {key.resource}; ingesting a document into it makes it, and so does CreateCollection",
        collection=key.resource,
    )
