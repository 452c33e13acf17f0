"""Requests at the door: protobuf in, checked values out. Every field is bounded before the domain sees it.

Errors: INVALID_FIELD naming the field, FILTER_INVALID with the place in the filter that can't be read.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from typing import Final

from google.protobuf.json_format import MessageToDict

from mesh.validation import check_name, check_range, check_text, invalid, shorten
from services.retriever.search.filtering import compile_filter
from services.retriever.types import DEFAULT_COLLECTION, CollectionKey, Epoch, Incoming, Query
from weft.errors import Reason, WeftError, error
from weft.retriever.v1 import retriever_pb2 as pb

MAX_QUERY_CHARS: Final = 8_192
MAX_SOURCE_CHARS: Final = 2_048
MAX_TITLE_CHARS: Final = 512
MAX_METADATA_BYTES: Final = 16 * 1024
MAX_PART_BYTES: Final = 1 << 20
MAX_REQUEST_ID_CHARS: Final = 128
DEFAULT_TOP_K: Final = 5
MAX_TOP_K: Final = 100
MAX_PER_DOCUMENT: Final = 100
_HEAR_OUT_S: Final = 1.0
_LABEL: Final = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_COLLECTION: Final = re.compile(rf"collections/({_LABEL})")
_DOCUMENT: Final = re.compile(rf"collections/({_LABEL})/documents/([a-z0-9][a-z0-9-]{{0,127}})")


def collection_key(tenant: str, name: str, *, field: str = "collection", default: bool = True) -> CollectionKey:
    """The collection that a resource name means; empty is the default one where that is allowed."""
    if not name and default:
        return CollectionKey(tenant, DEFAULT_COLLECTION)
    return CollectionKey(tenant, check_name(field, name, _COLLECTION, "collections/handbook").group(1))


def document_key(tenant: str, name: str) -> tuple[CollectionKey, str]:
    """The collection and the document that a resource name means."""
    match = check_name("name", name, _DOCUMENT, "collections/handbook/documents/guide-md-0123456789ab")
    return CollectionKey(tenant, match.group(1)), match.group(2)


def query(tenant: str, request: pb.SearchRequest) -> Query:
    """A search request."""
    text = check_text("query", request.query, max_chars=MAX_QUERY_CHARS)
    top_k = request.top_k if request.HasField("top_k") else DEFAULT_TOP_K
    check_range("top_k", top_k, 1, MAX_TOP_K)
    check_range("max_per_document", request.max_per_document, 0, MAX_PER_DOCUMENT)
    min_epoch = None
    if request.HasField("min_epoch"):
        log_id = check_text("min_epoch.log_id", request.min_epoch.log_id, max_chars=64, allow_newlines=False)
        min_epoch = Epoch(log_id, request.min_epoch.sequence)
    key = collection_key(tenant, request.collection)
    chosen = compile_filter(request.filter) if request.filter.strip() else None
    allow_cached = request.allow_cached if request.HasField("allow_cached") else True
    return Query(
        key,
        text,
        top_k,
        max_per_document=request.max_per_document,
        explain=request.explain,
        min_epoch=min_epoch,
        filter=chosen,
        allow_cached=allow_cached,
        rerank=request.rerank,
    )


async def incoming(
    requests: AsyncIterator[pb.IngestDocumentsRequest], max_bytes: int
) -> AsyncIterator[Incoming | bytes | WeftError]:
    """The documents of an ingest as they come: a header, then its bytes in parts, then the next header.

    The start must have been taken off already. A document whose header is wrong comes out refused; one that
    turns out too large is followed by the error that says so. Parts that don't fit the protocol end the stream.

    Raises:
        WeftError: INVALID_FIELD.
    """
    source: str | None = None
    received = 0
    async for request in requests:
        part = request.WhichOneof("part")
        if part == "document":
            source, received = request.document.source, 0
            yield _header(request.document, max_bytes)
        elif part == "data":
            size = len(request.data)
            if source is None:
                raise invalid("data", "came before any document; send the document's header first")
            if size > MAX_PART_BYTES:
                raise invalid("data", f"is {size} bytes; a part has at most {MAX_PART_BYTES}", size_bytes=size)
            received += size
            if received > max_bytes >= received - size:
                yield _too_large(source, received, max_bytes, "more than")
            yield request.data
        else:
            raise invalid("part", f"is {part or 'missing'}; after the start come documents and their data")


async def hear_out(requests: AsyncIterator[pb.IngestDocumentsRequest]) -> None:
    """Let a sender that is being refused end its sentence, if that is soon.

    gRPC's Python client reports a write that fails as INTERNAL while the status that says why is on its way.
    """
    with contextlib.suppress(Exception):
        async with asyncio.timeout(_HEAR_OUT_S):
            async for _ in requests:
                pass


def check_start(request: pb.IngestDocumentsRequest | None) -> pb.IngestStart:
    """The first message of an ingest."""
    if request is None or request.WhichOneof("part") != "start":
        raise invalid("start", "is missing; the first message of an ingest is its start")
    check_text("start.request_id", request.start.request_id, max_chars=MAX_REQUEST_ID_CHARS, allow_newlines=False)
    return request.start


def _refusal(header: pb.DocumentHeader, max_bytes: int) -> WeftError | None:
    try:
        check_text("document.source", header.source, max_chars=MAX_SOURCE_CHARS, allow_newlines=False)
        check_text("document.title", header.title, max_chars=MAX_TITLE_CHARS, min_chars=0, allow_newlines=False)
        check_text("document.mime_type", header.mime_type, max_chars=127, min_chars=0, allow_newlines=False)
        size = header.metadata.ByteSize()
        if size > MAX_METADATA_BYTES:
            raise invalid(
                "document.metadata", f"is {size} bytes; at most {MAX_METADATA_BYTES} are kept", size_bytes=size
            )
    except WeftError as err:
        return err
    if header.size_bytes > max_bytes:
        return _too_large(header.source, header.size_bytes, max_bytes, "announced as")
    return None


def _too_large(source: str, size: int, max_bytes: int, how: str) -> WeftError:
    return error(
        Reason.DOCUMENT_TOO_LARGE,
        f"{shorten(source, 200)} is {how} {size} bytes; at most {max_bytes} are taken in: split it, or raise "
        "WEFT_RETRIEVER__MAX_DOCUMENT_BYTES",
        source=shorten(source, 200),
        size_bytes=size,
        max_bytes=max_bytes,
    )


def _header(header: pb.DocumentHeader, max_bytes: int) -> Incoming:
    refused = _refusal(header, max_bytes)
    metadata = {} if refused else MessageToDict(header.metadata)
    return Incoming(header.source, header.title.strip(), header.mime_type, metadata, refused)
