"""Snapshots: a state comes back as it was; damage, a full disk and other replicas do no harm."""

from __future__ import annotations

import asyncio
import json
import logging
import random
import resource
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from mesh.deadline import Deadline
from services.retriever.replicas.keeping import Keeper, with_stored
from services.retriever.replicas.replica import State
from services.retriever.replicas.snapshots import Snapshots
from services.retriever.segments import bundle
from services.retriever.segments.view import View
from services.retriever.types import Epoch, Query
from tests.support.retrieval import KEY, House, house, indexes, put
from tests.unit.test_retriever_view import COLLECTION, answers, stored

LOG = "a" * 32
NAMESPACES = ("unshare", "--user", "--map-root-user", "--mount")
ON_A_SMALL_DISK = (
    *(*NAMESPACES, "sh", "-c"),
    'mkdir "$0/snapshots" && mount -t tmpfs -o size=1m none "$0/snapshots" && exec "$@"',
)
"""Before a directory and a command: runs it with 1 MiB for the directory's snapshots."""


def grown(view: View, *numbers: int) -> View:
    return view.changed(COLLECTION, [stored(f"d{n}", f"word w{n}", "second") for n in numbers], [])


def state(sequence: int, *numbers: int) -> State:
    view = grown(View.empty(COLLECTION, indexes()), *numbers)
    return State(sequence, {KEY: view})


@contextmanager
def place(directory: Path, log_id: str = LOG) -> Iterator[Snapshots]:
    snapshots = Snapshots.claim(directory, log_id, indexes())
    try:
        yield snapshots
    finally:
        snapshots.close()


@contextmanager
def full_disk() -> Iterator[None]:
    """No file can grow beyond 1 KiB."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_024, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_state_comes_back_as_it_was(tmp_path: Path) -> None:
    view = grown(grown(View.empty(COLLECTION, indexes()), 1, 2, 3), 4, 5).changed(COLLECTION, [], ["d2"])
    with place(tmp_path) as snapshots:
        stored_segments = snapshots.save(State(9, {KEY: view}))
        loaded = snapshots.load()
    assert loaded.sequence == 9
    assert loaded.views[KEY].collection == COLLECTION
    assert loaded.views[KEY].live_count == view.live_count
    assert answers(loaded.views[KEY], "word w2 w4") == answers(view, "word w2 w4")
    swapped = with_stored(State(9, {KEY: view}), stored_segments).views[KEY]
    assert all(part.segment.path for part in swapped.parts)
    assert swapped.version == view.version
    assert answers(swapped, "word w2 w4") == answers(view, "word w2 w4")


def test_a_collection_goes_on_from_its_snapshot(tmp_path: Path) -> None:
    with place(tmp_path) as snapshots:
        snapshots.save(state(1, 1, 2, 3))
        loaded = snapshots.load().views[KEY]
    direct = state(1, 1, 2, 3).views[KEY]
    one, other = (grown(view, 2, 7).changed(COLLECTION, [], ["d3"]) for view in (loaded, direct))
    assert answers(one, "word w2 w7 w3") == answers(other, "word w2 w7 w3")


def test_segments_are_written_once_and_two_manifests_kept(tmp_path: Path) -> None:
    with place(tmp_path) as snapshots:
        kept = state(0, 1, 2)
        sizes = []
        for sequence in range(1, 6):
            view = grown(kept.views[KEY], 100 + sequence)
            snapshots.save(State(sequence, {KEY: view}))
            sizes.append(len(list(tmp_path.rglob("*.segment"))))
        assert sizes == [2, 3, 3, 3, 3]  # the one they share, and one each of the two newest
        assert len(list(tmp_path.rglob("manifest-*"))) == 2


def test_damage_anywhere_is_told_and_the_snapshot_before_used_or_none(tmp_path: Path) -> None:
    first = grown(View.empty(COLLECTION, indexes()), 1, 2, 3)
    second = grown(first, 4, 5).changed(COLLECTION, [], ["d1"])
    with place(tmp_path) as snapshots:
        snapshots.save(State(1, {KEY: first}))
        (shared,) = tmp_path.rglob("*.segment")
        snapshots.save(State(2, {KEY: second}))
        newest, oldest = sorted(tmp_path.rglob("manifest-*"), reverse=True)
        files = [shared, newest, *(path for path in tmp_path.rglob("*.segment") if path != shared)]
        expected = {1: answers(first, "word w1 w4"), 2: answers(second, "word w1 w4")}
        chance = random.Random(11)
        seen = set()
        for number in range(200):
            path = chance.choice(files)
            whole = path.read_bytes()
            offset = chance.randrange(len(whole))
            damaged = bytearray(whole)
            damaged[offset] ^= 1 << chance.randrange(8)
            path.write_bytes(damaged if number % 2 else whole[:offset])
            before = snapshots.damaged
            loaded = snapshots.load()
            assert loaded.sequence == (0 if path == shared else 1)
            assert snapshots.damaged - before == (2 if path == shared else 1)
            if loaded.sequence:
                assert answers(loaded.views[KEY], "word w1 w4") == expected[loaded.sequence]
            seen.add(path)
            path.unlink()
            path.write_bytes(whole)
        assert len(seen) == len(files)
        assert answers(snapshots.load().views[KEY], "word w1 w4") == expected[2]
        newest.unlink()
        assert snapshots.load().sequence == 1
        oldest.unlink()
        assert snapshots.load() == State()


def test_what_does_not_fit_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with place(tmp_path) as snapshots:
        snapshots.save(state(1, 1))
    with place(tmp_path, "b" * 32) as other:
        assert other.load() == State()
    monkeypatch.setattr("services.retriever.replicas.snapshots.lexicon", json)  # as if other code read the words
    with place(tmp_path) as again:
        assert again.load() == State()
        assert again.damaged == 0


def test_replicas_share_a_directory_without_harm(tmp_path: Path) -> None:
    with place(tmp_path) as one:
        one.save(state(5, 1, 2))
        with place(tmp_path) as other:
            loaded = other.load()
            assert loaded.sequence == 5  # the other's own place is empty: it took the neighbour's
            other.save(loaded)
            (theirs,), (own,) = ((tmp_path / LOG / n).glob("*.segment") for n in "01")
            assert theirs.samefile(own)
            one.save(state(6, 3))
            one.save(state(7, 4))  # its place has no trace of sequence 5 any more
            assert answers(loaded.views[KEY], "word w1") == answers(state(5, 1, 2).views[KEY], "word w1")
            assert other.load().sequence == 7
    with place(tmp_path) as alone:
        alone.save(alone.load())
        assert [path.name for path in (tmp_path / LOG / "1").iterdir()] == ["lock"]  # nobody's any more: emptied


def test_a_snapshot_that_was_anothers_stays_until_there_is_a_newer_one(tmp_path: Path) -> None:
    with place(tmp_path) as one, place(tmp_path) as other:
        one.save(state(1, 1))
        other.save(state(9, *range(20)))
    with place(tmp_path) as again:  # in the first one's place
        loaded = again.load()
        assert loaded.sequence == 9
        with full_disk(), pytest.raises(OSError, match="too large"):
            again.save(State(10, {KEY: grown(loaded.views[KEY], *range(30, 60))}))
        assert again.load().sequence == 9
        again.save(loaded)
        assert [path.name for path in (tmp_path / LOG / "1").iterdir()] == ["lock"]
        assert again.load().sequence == 9


def test_a_snapshot_that_fails_leaves_the_one_before(tmp_path: Path) -> None:
    with place(tmp_path) as snapshots:
        snapshots.save(state(1, 1, 2))
        files = sorted(tmp_path.rglob("*"))
        with full_disk(), pytest.raises(OSError, match="too large"):
            snapshots.save(state(2, *range(50)))
        assert sorted(tmp_path.rglob("*")) == files
        assert snapshots.load().sequence == 1
        snapshots.save(state(3, 1))
        assert snapshots.load().sequence == 3


@asynccontextmanager
async def kept_house(tmp_path: Path) -> AsyncIterator[tuple[House, Keeper, CollectorRegistry]]:
    registry, keepers = CollectorRegistry(), list[Keeper]()

    async def begin(of: House) -> None:
        keepers.append(Keeper(tmp_path / "snapshots", of.log.log_id, of.replica, of.workers, registry))
        await keepers[0].start()

    async with house(tmp_path, begin=begin) as one:
        try:
            yield one, keepers[0], registry
        finally:
            keepers[0].close()


async def fill(of: House, first: int, count: int) -> None:
    made = await of.library.create_collection(KEY, "")
    for number in range(first, first + count):
        document = await put(of.log, made, f"{number}.txt", f"the word w{number}")
    await of.replica.reach(Epoch(of.log.log_id, document.sequence), Deadline.after(5))


async def test_a_replica_begins_from_the_snapshot_and_reads_the_tail(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with kept_house(tmp_path) as (one, keeper, _):
        await fill(one, 0, 20)
        assert await keeper.step()
        assert all(part.segment.path for part in one.replica.state.views[KEY].parts)
        await fill(one, 20, 5)
    async with kept_house(tmp_path) as (again, _, _):
        assert any("began from the snapshot of sequence 21" in record.message for record in caplog.records)
        found = await again.searcher.search(Query(KEY, "w3 w22", top_k=2), Deadline.after(5))
        assert {hit.document.source for hit in found.hits} == {"3.txt", "22.txt"}
        assert again.replica.state.views[KEY].live_count == 25


async def test_a_log_put_back_from_a_backup_is_believed_and_not_the_snapshot(tmp_path: Path) -> None:
    async with kept_house(tmp_path) as (one, keeper, _):
        await fill(one, 0, 3)
    shutil.copytree(tmp_path, backup := tmp_path / "backup")
    async with kept_house(tmp_path) as (one, keeper, _):
        await fill(one, 3, 3)
        assert await keeper.step()
    shutil.copytree(tmp_path / "snapshots", backup / "snapshots", dirs_exist_ok=True)
    async with kept_house(backup) as (back, _, _):
        assert back.replica.state.views[KEY].live_count == 3


async def test_a_full_disk_costs_the_snapshot_and_nothing_else_until_there_is_room(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with kept_house(tmp_path) as (one, keeper, registry):
        await fill(one, 0, 20)
        failing = await one.searcher.search(Query(KEY, "w3"), Deadline.after(5))
        with full_disk():
            assert not await keeper.step()
            assert not await keeper.step()
            found = await one.searcher.search(Query(KEY, "w3"), Deadline.after(5))
        assert found.hits == failing.hits
        assert registry.get_sample_value("weft_retriever_snapshot_failures_total") == 2
        assert sum("no snapshot can be written" in record.message for record in caplog.records) == 1
        await fill(one, 20, 1)  # changes go on, too
        assert await keeper.step()
        assert await keeper.step()
        assert registry.get_sample_value("weft_retriever_snapshot_age_seconds") < 1  # type: ignore[operator]
    with place(tmp_path / "snapshots", one.log.log_id) as snapshots:
        assert snapshots.load().views[KEY].live_count == 21


def test_a_disk_that_is_truly_full_is_survived_alike(tmp_path: Path) -> None:
    if subprocess.run([*NAMESPACES, "true"], capture_output=True, check=False).returncode:
        pytest.skip("a disk of its own takes user namespaces, which this machine doesn't allow")
    command = [*ON_A_SMALL_DISK, str(tmp_path), sys.executable, "-m", "tests.support.full_disk", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "no snapshot can be written" in done.stderr


async def test_a_directory_that_cannot_be_written_is_said_and_survived(tmp_path: Path) -> None:
    (tmp_path / "snapshots").write_text("a file where the directory should be")
    async with kept_house(tmp_path) as (one, keeper, registry):
        await fill(one, 0, 3)
        assert not await keeper.step()
        assert registry.get_sample_value("weft_retriever_snapshot_failures_total") == 2
        (tmp_path / "snapshots").unlink()
        assert await keeper.step()


async def test_searches_beside_the_exchange_of_segments_for_files_answer_alike(tmp_path: Path) -> None:
    async with kept_house(tmp_path) as (one, keeper, _):
        await fill(one, 0, 30)
        before = await one.searcher.search(Query(KEY, "the word w3"), Deadline.after(5))

        async def search() -> None:
            for _ in range(50):
                assert (await one.searcher.search(Query(KEY, "the word w3"), Deadline.after(5))).hits == before.hits

        async with asyncio.TaskGroup() as group:
            group.create_task(search())
            group.create_task(keeper.step())


def test_a_workers_thread_that_dies_in_a_snapshot_leaves_what_is_swept_up_later(tmp_path: Path) -> None:
    with place(tmp_path) as snapshots:
        snapshots.save(state(1, 1))
        (tmp_path / LOG / "0" / f"{bundle.ASIDE}half.segment").write_bytes(b"half")
        (tmp_path / LOG / "0" / "nobodys.segment").write_bytes(b"whole, but its manifest was never written")
        snapshots.save(state(2, 2))
        names = {path.name for path in (tmp_path / LOG / "0").iterdir()}
        assert "nobodys.segment" not in names
        assert not any(name.startswith(bundle.ASIDE) for name in names)
