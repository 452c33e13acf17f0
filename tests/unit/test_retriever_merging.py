"""Joining segments: which, when, and that nothing is lost or comes back on the way."""

from __future__ import annotations

import asyncio
import random
import threading
from pathlib import Path

import numpy as np
import pytest

from mesh.deadline import Deadline
from services.retriever.replicas import merging
from services.retriever.replicas.merging import FANOUT, Merger, due, with_joined
from services.retriever.replicas.replica import State
from services.retriever.segments import joining
from services.retriever.segments.joining import MAX_PARTS, TAIL_PARTS, TAIL_ROWS, join
from services.retriever.segments.view import View
from services.retriever.types import Epoch, Query
from services.retriever.workers import Workers
from tests.support.retrieval import KEY, house, indexes, put
from tests.unit.test_retriever_view import COLLECTION, answers, stored, view_of


def many(first: int, count: int) -> View:
    return view_of(*(stored(f"d{n}", f"word w{n}") for n in range(first, first + count)))


def together(*views: View) -> View:
    return View.empty(COLLECTION, indexes()).with_parts([part for view in views for part in view.parts])


def test_a_tier_that_is_full_becomes_one_of_the_next() -> None:
    view = together(*(many(n * 300, 300) for n in range(FANOUT)))
    job = due(view, quiet=False)
    assert job is not None
    assert len(job.parts) == FANOUT
    after = with_joined(State(1, {KEY: view}), job, join(job.parts, indexes(), settled=True)).views[KEY]
    assert [part.live_count for part in after.parts] == [300 * FANOUT]
    assert due(after, quiet=False) is None
    assert answers(after, "word w7") == answers(view, "word w7")


def test_a_join_is_never_larger_than_its_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merging, "MAX_ROWS", 700)
    job = due(together(*(many(n * 300, 300) for n in range(FANOUT))), quiet=True)
    assert job is not None
    assert len(job.parts) == 2
    assert due(together(*(many(n * 400, 400) for n in range(FANOUT))), quiet=False) is None


def test_a_segment_that_is_mostly_gone_is_written_anew() -> None:
    view = many(0, 2 * TAIL_ROWS).changed(COLLECTION, [], [f"d{n}" for n in range(TAIL_ROWS + 1)])
    job = due(view, quiet=False)
    assert job is not None
    joined = join(job.parts, indexes(), settled=True)
    assert joined.segment is not None
    assert len(joined.segment) == TAIL_ROWS - 1


def test_a_small_collection_settles_in_one_segment_once_it_is_quiet() -> None:
    view = together(many(0, 300), many(300, 40), many(340, 1))
    assert due(view, quiet=False) is None
    job = due(view, quiet=True)
    assert job is not None
    assert len(job.parts) == 3


def test_many_small_changes_never_make_many_segments() -> None:
    view = View.empty(COLLECTION, indexes())
    for number in range(100):
        view = view.changed(COLLECTION, [stored(f"d{number}", f"word w{number}")], [])
        assert len(view.parts) <= TAIL_PARTS
    assert len(answers(view, "word")) == 10


def test_without_a_merger_there_is_still_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joining, "TAIL_ROWS", 0)
    view = View.empty(COLLECTION, indexes())
    for number in range(150):
        view = view.changed(COLLECTION, [stored(f"d{number}", "word")], [])
        assert len(view.parts) <= MAX_PARTS
    assert view.live_count == 150


def test_what_is_deleted_during_a_join_stays_deleted() -> None:
    view = together(many(0, 3), many(3, 3), many(6, 3))
    job = due(view, quiet=True)
    assert job is not None
    joined = join(job.parts, indexes(), settled=True)
    changed = view.changed(COLLECTION, [stored("d4", "replaced")], ["d0", "d8"])
    after = with_joined(State(1, {KEY: changed}), job, joined).views[KEY]
    assert len(after.parts) == 2
    assert answers(after, "word w0 w4 w8 replaced") == answers(changed, "word w0 w4 w8 replaced")
    assert after.version == changed.version


def test_a_join_of_segments_that_are_no_longer_there_is_dropped() -> None:
    view = together(many(0, 3), many(3, 3))
    job = due(view, quiet=True)
    assert job is not None
    joined = join(job.parts, indexes(), settled=True)
    changed = State(1, {KEY: view.changed(COLLECTION, [], ["d0", "d1", "d2"])})
    assert with_joined(changed, job, joined) is changed
    anew = View.empty(COLLECTION, indexes()).changed(COLLECTION, [stored("d9", "new")], [])
    assert with_joined(State(1, {KEY: anew}), job, joined).views[KEY] is anew
    assert with_joined(State(1, {}), job, joined).views == {}


async def test_the_merger_settles_what_was_put_one_by_one(tmp_path: Path) -> None:
    workers = Workers("merge", 1, 10)
    async with house(tmp_path) as one, asyncio.TaskGroup() as group:
        merger = group.create_task(Merger(one.replica, workers).run())
        made = await one.library.create_collection(KEY, "")
        chance = random.Random(4)
        for number in range(60):
            document = await put(one.log, made, f"{chance.randrange(30)}.txt", f"the word w{number}")
            await one.replica.reach(Epoch(one.log.log_id, document.sequence), Deadline.after(5))
        async with asyncio.timeout(5):
            while len(one.replica.state.views[KEY].parts) > 1:
                await one.replica.wait_moved(one.replica.state, 1)
        (part,) = one.replica.state.views[KEY].parts
        assert part.documents is None  # nothing that went is carried along
        merger.cancel()
    workers.close()


async def test_a_search_and_a_change_do_not_wait_for_a_join(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def slow_join(*parts: object, **options: object) -> object:
        begun.set()
        assert go_on.wait(10)
        return join(*parts, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(merging, "join", slow_join)
    workers = Workers("merge", 1, 10)
    async with house(tmp_path) as one:
        made = await one.library.create_collection(KEY, "")
        for number in range(3):
            document = await put(one.log, made, f"{number}.txt", f"the word w{number}")
            await one.replica.reach(Epoch(one.log.log_id, document.sequence), Deadline.after(5))
        merging_task = asyncio.create_task(Merger(one.replica, workers).step(quiet=True))
        await asyncio.to_thread(begun.wait, 10)
        gone = await one.library.delete_document(KEY, document.name)
        found = await one.searcher.search(Query(KEY, "word w2", min_epoch=gone), Deadline.after(2))
        assert len(found.hits) == 2
        go_on.set()
        assert await merging_task  # one of its segments has gone meanwhile: it is chosen anew
        await Merger(one.replica, workers).step(quiet=True)
        (part,) = one.replica.state.views[KEY].parts
        assert part.live_count == 2
        after = await one.searcher.search(Query(KEY, "word w2"), Deadline.after(2))
        assert after.hits == found.hits
    workers.close()


def test_vectors_of_joined_segments_stay_with_their_rows() -> None:
    view = together(many(0, 5), many(5, 5)).changed(COLLECTION, [], ["d3"])
    (part,) = view.with_parts(_joined(view)).parts
    for row in range(len(part.segment)):
        name = part.segment.entry(row).document.name
        slot = next(slot for slot in range(view.size) if view.entry(slot).document.name == name and name != "d3")
        assert part.segment.dense is not None
        assert np.array_equal(part.segment.dense.vectors(np.array([row])), view.vectors(np.array([slot], np.int32)))


def _joined(view: View) -> list[joining.Part]:
    part = join(view.parts, indexes(), settled=True).standing(view.parts)
    assert part is not None
    return [part]
