"""A sweep and a sender that comes back meet at every step of both: what the sender was told is in, is there."""

from __future__ import annotations

import asyncio
import inspect
import itertools
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from typing import Any

import pytest

from mesh.jobs import Jobs, JobState, Limits, Submission
from mesh.jobs.queues import sqlite as queues
from mesh.plugins import Url
from services.retriever.blobs import sqlite as blob_stores
from services.retriever.ingest import ingesting
from services.retriever.ingest.receiving import Bounds, Part, Receiver
from services.retriever.ingest.sweeping import let_go_of_ended
from services.retriever.ingest.uploads import BlobKey, Blobs, Intake, Item
from services.retriever.intakes import sqlite as intakes
from services.retriever.types import Collection, CollectionKey, Incoming, Progress
from weft.errors import Reason, WeftError, error

COLLECTION = Collection(CollectionKey("tenant", "c"), 1, "none:", "none:", 0, 0.0, 0)
DOCUMENTS = {"a.txt": b"first", "b.txt": b"second"}
FOR_EVER = 1_000  # steps


class Actor:
    """Something that goes on one call of a store at a time."""

    def __init__(self) -> None:
        self._asks, self._turn = asyncio.Semaphore(0), asyncio.Semaphore(0)
        self._task: asyncio.Task[None]

    def over(self, store: Any) -> Any:
        """``store``, whose every call waits for its turn."""
        actor = self

        class Stepped:
            def __getattr__(self, name: str) -> Any:
                there = getattr(store, name)
                if not inspect.iscoroutinefunction(there):
                    return there

                async def call(*args: Any, **options: Any) -> Any:
                    actor._asks.release()
                    await actor._turn.acquire()
                    return await there(*args, **options)

                return call

        return Stepped()

    def begin(self, work: Coroutine[Any, Any, None]) -> None:
        self._task = asyncio.create_task(work)

    async def go(self, steps: int) -> int:
        """Let it do so many steps, and return how many it had in it."""
        for done in range(steps + 1):
            asking = asyncio.create_task(self._asks.acquire())
            await asyncio.wait((asking, self._task), return_when=asyncio.FIRST_COMPLETED)
            if not asking.done():
                asking.cancel()
                return done
            if done == steps:
                self._asks.release()  # it asks still
                return done
            self._turn.release()
        raise AssertionError


class Shop:
    """Stores with an upload that broke off, and whose job has ended for want of its sender."""

    def __init__(self, jobs: Jobs, intake: Intake, blobs: Blobs, key: str) -> None:
        self.jobs, self.intake, self.blobs, self.key = jobs, intake, blobs, key
        self.sender, self.sweep = Actor(), Actor()
        self.told: str | None = None

    async def break_off(self) -> None:
        wanted = Submission("tenant", ingesting.KIND, self.key, ingesting.payload(COLLECTION.key))
        self.job = (await self.jobs.submit(wanted)).id
        upload = await self.intake.begin("tenant", self.job, "gone", "c")
        (key,) = (await self.blobs.put("tenant", upload, {1: DOCUMENTS["a.txt"]}, durable=False)).values()
        await self.intake.put("tenant", self.job, upload, [Item(1, "a.txt", key.sha256, len(DOCUMENTS["a.txt"]))])
        await self.intake.break_off("tenant", self.job, "gone")
        claim = await self.jobs.claim((ingesting.KIND,), "worker")
        assert claim is not None
        await self.jobs.fail(claim.lease, error(Reason.UPLOAD_INCOMPLETE, "the rest didn't come"), retry=False)

    async def send(self, receiver: Receiver, parts: AsyncIterator[Part]) -> None:
        async def report(progress: Progress) -> None:
            raise AssertionError(progress)

        await receiver.run(COLLECTION, self.key, parts, report, detach=True)

    def begin(self) -> None:
        async def parts() -> AsyncIterator[Part]:
            for source, data in DOCUMENTS.items():
                yield Incoming(source)
                yield data

        async def send() -> None:
            stores = [self.sender.over(store) for store in (self.jobs, self.intake, self.blobs)]
            try:
                await self.send(Receiver(*stores, "log", Bounds(10, 1 << 20)), parts())
                self.told = ""
            except WeftError as err:
                self.told = err.reason

        self.sender.begin(send())
        self.sweep.begin(let_go_of_ended(*[self.sweep.over(store) for store in (self.jobs, self.intake, self.blobs)]))

    async def lost(self) -> str:
        """What is not as the sender was told."""
        if self.told:
            return self.told
        job = await self.jobs.get("tenant", self.job)
        if job is None or job.state is not JobState.QUEUED:
            return f"the job is {job and job.state}"
        receipt = await self.intake.receipt("tenant", self.job)
        if receipt is None or not receipt.complete or receipt.broken:
            return f"the receipt is {receipt}"
        items = await self.intake.items("tenant", self.job, 0, 10)
        keys = [BlobKey("tenant", item.upload, item.number, item.sha256) for item in items]
        data = await self.blobs.get(keys)
        return "" if data == [*DOCUMENTS.values()] else f"of {[*DOCUMENTS]} there is {data}"


@pytest.fixture
async def stores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Jobs, Intake, Blobs]]:
    monkeypatch.setattr("services.retriever.ingest.sweeping._PAUSE_S", 0.0)
    jobs = await queues.open_file(tmp_path / "jobs.db", Limits())
    intake = await intakes.open_file(tmp_path / "intake.db")
    blobs = await blob_stores.open(Url.parse(f"sqlite:///{tmp_path}"))
    yield jobs, intake, blobs
    await jobs.close()
    await intake.close()
    await blobs.close()


async def test_a_sweep_takes_nothing_from_a_sender_that_is_back(stores: tuple[Jobs, Intake, Blobs]) -> None:
    numbers = itertools.count()

    async def met(sender_steps: int, sweep_steps: int, *, sweep_first: bool) -> tuple[Shop, int, int]:
        shop = Shop(*stores, f"request {next(numbers)}")
        await shop.break_off()
        shop.begin()
        turns = [
            (shop.sender, sender_steps),
            (shop.sweep, sweep_steps),
            (shop.sender, FOR_EVER),
            (shop.sweep, FOR_EVER),
        ]
        if sweep_first:
            turns = [turns[1], turns[0], turns[3], turns[2]]
        done = {shop.sender: 0, shop.sweep: 0}
        for actor, steps in turns:
            done[actor] += await actor.go(steps)
        lost = await shop.lost()
        assert not lost, (
            f"{lost}; after {sender_steps} steps of the sender, {sweep_steps} of the sweep ({sweep_first=})"
        )
        await shop.jobs.cancel("tenant", shop.job)
        return shop, done[shop.sender], done[shop.sweep]

    _, sender_steps, _ = await met(FOR_EVER, 0, sweep_first=False)
    _, _, sweep_steps = await met(0, FOR_EVER, sweep_first=True)
    assert sender_steps >= 8
    assert sweep_steps >= 5
    for sender, sweep, sweep_first in itertools.product(range(sender_steps), range(sweep_steps), (False, True)):
        await met(sender, sweep, sweep_first=sweep_first)


async def test_a_job_that_gave_up_just_as_all_had_come_goes_on(stores: tuple[Jobs, Intake, Blobs]) -> None:
    shop = Shop(*stores, "request")
    await shop.break_off()
    for state, total in ((JobState.FAILED, None), (JobState.QUEUED, 1)):
        upload = await shop.intake.begin("tenant", shop.job, "back", "c")
        data = {1: DOCUMENTS["a.txt"]}
        (key,) = (await shop.blobs.put("tenant", upload, data, durable=True)).values()
        item = Item(1, "a.txt", key.sha256, len(data[1]))
        await shop.intake.put("tenant", shop.job, upload, [item], total=total)
        await let_go_of_ended(*stores)
        job = await shop.jobs.get("tenant", shop.job)
        assert job is not None
        assert job.state is state
        assert isinstance((await shop.blobs.get([key]))[0], bytes) == (total == 1)


async def test_a_sender_that_is_refused_after_all_leaves_no_bytes(
    stores: tuple[Jobs, Intake, Blobs], tmp_path: Path
) -> None:
    shop = Shop(*stores, "request")
    await shop.break_off()
    shop.begin()
    (first,) = list((tmp_path / "blobs" / "tenant").iterdir())
    while len(list(first.iterdir())) < 2:  # until it has put its bytes, which are not listed yet
        await shop.sender.go(1)
    (held,) = await shop.intake.held(0, 10)
    assert await shop.intake.let_go(held)  # as if it had been silent for long, and its job had ended
    for upload in held.uploads:
        await shop.blobs.remove_upload("tenant", upload)
    await shop.intake.let_gone(held)
    await shop.blobs.put("tenant", held.uploads[-1], {2: DOCUMENTS["b.txt"]}, durable=False)
    await shop.sender.go(FOR_EVER)
    assert shop.told == Reason.UPLOAD_INCOMPLETE
    assert [path for path in (tmp_path / "blobs" / "tenant").rglob("*") if path.is_file()] == []
