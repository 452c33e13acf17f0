"""The SDK's collections and documents against a real retriever: made, listed, deleted, and then found no more."""

from __future__ import annotations

from pathlib import Path

import pytest

import weft
from tests.support.retriever_server import served


async def test_documents_are_listed_and_a_deleted_one_is_found_no_more(tmp_path: Path) -> None:
    many = [weft.Document(f"{n:03}.txt", f"number{n} of many", metadata={"n": n}) for n in range(250)]
    async with served(tmp_path) as retriever, weft.Client(target=retriever.target) as c:
        await c.ingest(many, collection="many")
        listed = [document async for document in c.documents.list("many")]  # more than a page
        assert sorted(document.source for document in listed) == [document.source for document in many]
        one = next(document for document in listed if document.source == "007.txt")
        assert (one.metadata, one.chunks, one.size_bytes, one.mime_type) == ({"n": 7}, 1, 15, "text/plain")
        assert one.updated_s > 1e9
        assert len(one.sha256) == 64
        assert await c.documents.get(one.name) == one
        (hit, *_) = (await c.search("number7", collection="many")).hits
        assert hit.document == one.name
        await c.documents.delete(one.name)
        assert hit.passage not in {found.passage for found in (await c.search("number7", collection="many")).hits}
        with pytest.raises(weft.NotFound) as caught:
            await c.documents.delete(one.name)
        assert caught.value.reason == "DOCUMENT_NOT_FOUND"
        assert (await c.collections.get("many")).documents == 249


async def test_collections_are_made_listed_and_deleted_with_all_that_is_in_them(tmp_path: Path) -> None:
    async with served(tmp_path) as retriever, weft.Client(target=retriever.target) as c:
        made = await c.collections.create("words", "none:")
        assert (made.name, made.embedder, made.dimension, made.documents) == ("collections/words", "none:", 0, 0)
        await c.ingest(weft.Document("a.txt", "text"), collection="words")
        await c.ingest(weft.Document("a.txt", "text"))
        assert [one.name async for one in c.collections.list()] == ["collections/default", "collections/words"]
        assert (await c.collections.get("collections/words")).chunks == 1
        await c.collections.delete("words")
        assert [one.name async for one in c.collections.list()] == ["collections/default"]
        for call in (c.collections.get("words"), c.collections.delete("words"), c.search("text", collection="words")):
            with pytest.raises(weft.NotFound) as caught:
                await call
            assert caught.value.reason == "COLLECTION_NOT_FOUND"


async def test_what_is_no_name_is_refused(tmp_path: Path) -> None:
    async with served(tmp_path) as retriever, weft.Client(target=retriever.target) as c:
        calls = (c.collections.create("No Name"), c.documents.delete("nonsense"), c.documents.get("\ud800"))
        for call in calls:
            with pytest.raises(weft.InvalidArgument) as caught:
                await call
            assert caught.value.reason == "INVALID_FIELD"
