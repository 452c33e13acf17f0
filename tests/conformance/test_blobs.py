"""What every store of uploads keeps: the bytes of documents, ``Blobs``."""

from __future__ import annotations

import hashlib

import pytest

from services.retriever.ingest.uploads import BlobKey
from services.retriever.types import Outcome
from tests.support.postgresql import postgresql_server
from tests.support.uploads import J, Store, T, begin, content, item, keep, refused, stores
from weft.errors import WeftError

__all__ = ["postgresql_server", "stores"]


@pytest.mark.parametrize("size", [0, 1, 1 << 20, (1 << 20) + 1, 3_500_000])
async def test_a_blob_comes_back_as_it_was_written(stores: tuple[Store, Store], size: int) -> None:
    data = bytes(range(256)) * (size // 256 + 1)
    for number in (1, 2):
        key = await keep(stores[0].blobs, data[:size], number)
        assert key == BlobKey(T, J, number, hashlib.sha256(data[:size]).hexdigest())
        parts = [part async for part in stores[1].blobs.parts(key)]
        assert b"".join(parts) == data[:size]
        assert all(len(part) <= 1 << 20 for part in parts)


async def test_a_blob_is_its_upload_s_and_its_number_s_own(stores: tuple[Store, Store]) -> None:
    blobs = stores[0].blobs
    kept = [await keep(blobs, b"same", 1), await keep(blobs, b"same", 2), await keep(blobs, b"same", 1, "b" * 32)]
    await blobs.remove(kept[:1])
    await blobs.remove(kept[:1])
    assert await refused(blobs, kept[0]) == "STORE_CORRUPT"
    assert [await content(stores[1].blobs, key) for key in kept[1:]] == [b"same", b"same"]
    await blobs.remove_upload(T, J)
    assert await refused(blobs, kept[1]) == "STORE_CORRUPT"
    assert await content(blobs, kept[2]) == b"same"
    await blobs.remove_upload(T, J)


async def test_small_blobs_come_and_go_together(stores: tuple[Store, Store]) -> None:
    one, other = stores[0].blobs, stores[1].blobs
    data = {1: b"one", 2: b"", 5: b"x" * 60_000}
    keys = await one.put(T, J, data, durable=False)
    assert keys == {n: BlobKey(T, J, n, hashlib.sha256(content).hexdigest()) for n, content in data.items()}
    assert await one.put(T, J, data, durable=True) == keys
    assert await other.get([*keys.values()]) == [*data.values()]
    assert await content(other, keys[5]) == data[5]
    wrong = keys[1]._replace(sha256="0" * 64)
    found = await other.get([keys[2], wrong, keys[5]])
    assert [found[0], found[2]] == [data[2], data[5]]
    assert isinstance(found[1], WeftError)
    assert found[1].reason == "STORE_CORRUPT"
    await other.remove([keys[1], wrong, keys[2]])
    assert await refused(one, keys[1]) == await refused(one, keys[2]) == "STORE_CORRUPT"
    assert await one.get([keys[5]]) == [data[5]]


async def test_documents_are_listed_together_or_not_at_all(stores: tuple[Store, Store]) -> None:
    one, other = stores[0].intake, stores[1].intake
    upload = await begin(one)
    assert await one.put(T, J, upload, [item(1), item(2)], total=2, durable=True) == [True, True]
    receipt = await other.receipt(T, J)
    assert receipt is not None
    assert (receipt.count, receipt.complete) == (2, True)
    with pytest.raises(WeftError) as caught:
        await one.put(T, J, upload, [item(2), item(3)])
    assert caught.value.reason == "REQUEST_ID_REUSED"
    with pytest.raises(WeftError):
        await one.put(T, J, upload, [item(1)], total=1)
    assert [there.number for there in await other.items(T, J, 0, 9)] == [1, 2]
    await other.settle(T, J, 1, [item(n, upload=upload, outcome=Outcome.INDEXED, sequence=n) for n in (1, 2)])
    assert [there.sequence for there in await one.items(T, J, 0, 9)] == [1, 2]


async def test_bytes_that_are_not_those_of_the_hash_are_refused(stores: tuple[Store, Store]) -> None:
    blobs = stores[0].blobs
    key = await keep(blobs, b"right")
    assert await refused(blobs, key._replace(sha256="0" * 64)) == "STORE_CORRUPT"
    assert await refused(blobs, key._replace(tenant="other")) == "STORE_CORRUPT"


async def test_what_is_dropped_is_not_there_and_the_same_again_is(stores: tuple[Store, Store]) -> None:
    blobs = stores[0].blobs
    writer = blobs.writer()
    await writer.write(b"x" * 2_000_000)
    await writer.drop()
    key = await keep(blobs, b"data")
    assert await keep(stores[1].blobs, b"data") == key
    await blobs.sweep()
    assert await content(blobs, key) == b"data"
