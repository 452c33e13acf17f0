"""Leases of a process that was killed are void at once, of one that is paused they are not: real processes."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from services.orchestrator.records import Busy, Limits, Opening, Taken
from services.orchestrator.sessions._owners import Owners
from services.orchestrator.sessions.sqlite import SqliteSessions
from tests.support.mesh import ROOT

LONG = Limits(lease_s=3_600.0)
_OWNER = """
import asyncio, sys
from pathlib import Path
from services.orchestrator.records import Limits, Opening
from services.orchestrator.sessions.sqlite import SqliteSessions

async def main():
    store = SqliteSessions(Path(sys.argv[1]), Limits(lease_s=3600.0))
    await store.check()
    await store.begin(Opening("acme", "s", True, "r1", "why?", "child/1", "0" * 32))
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await store.close()

asyncio.run(main())
"""


def opening(owner: str, request_id: str = "r1") -> Opening:
    return Opening("acme", "s", True, request_id, "why?", owner, "0" * 32)


@contextmanager
def owner_elsewhere(place: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the session's lease for an hour."""
    process = subprocess.Popen(
        [sys.executable, "-c", _OWNER, str(place)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteSessions]:
    found = SqliteSessions(tmp_path / "sessions.db", LONG)
    await found.check()
    yield found
    await found.close()


@pytest.mark.parametrize("request_id", ["r1", "another"])
async def test_nobody_waits_for_the_lease_of_an_owner_that_was_killed(
    tmp_path: Path, store: SqliteSessions, request_id: str
) -> None:
    with owner_elsewhere(tmp_path / "sessions.db") as process:
        assert isinstance(await store.begin(opening("here", request_id)), Busy)
        assert (await store.progress("acme", "s", 1, -1)).leased
        process.kill()
        process.wait()
        assert not (await store.progress("acme", "s", 1, -1)).leased
        taken = await store.begin(opening("here", request_id))
    assert isinstance(taken, Taken)
    assert taken.lease.turn == (1 if request_id == "r1" else 2)


async def test_an_owner_that_is_paused_keeps_its_lease(tmp_path: Path, store: SqliteSessions) -> None:
    with owner_elsewhere(tmp_path / "sessions.db") as process:
        process.send_signal(signal.SIGSTOP)
        assert isinstance(await store.begin(opening("here")), Busy)


async def test_the_lease_of_an_owner_that_nothing_is_known_of_counts(tmp_path: Path, store: SqliteSessions) -> None:
    with owner_elsewhere(tmp_path / "sessions.db") as process:
        process.kill()
        process.wait()
        await store.reap(10)  # which forgets the dead
        assert list((tmp_path / "sessions.owners").iterdir()) == []
        assert isinstance(await store.begin(opening("here")), Busy)


async def test_an_owner_that_closes_leaves_no_file_behind(tmp_path: Path, store: SqliteSessions) -> None:
    other = SqliteSessions(tmp_path / "sessions.db", LONG)
    assert isinstance(await other.begin(opening("there")), Taken)
    await store.reap(10)
    assert len(list((tmp_path / "sessions.owners").iterdir())) == 1  # that of a living one stays
    await other.close()
    assert list((tmp_path / "sessions.owners").iterdir()) == []


def test_looking_does_not_make_an_owner_seem_dead_or_alive(tmp_path: Path) -> None:
    owner, looker = Owners(tmp_path / "owners"), Owners(tmp_path / "owners")
    owner.announce("a")
    owner.announce("a")
    assert [looker.is_dead("a"), looker.is_dead("a"), owner.is_dead("a"), looker.is_dead("b")] == [False] * 4
    looker.close()
    assert not looker.is_dead("a")


async def test_without_a_place_for_lock_files_leases_expire_as_ever(tmp_path: Path) -> None:
    (tmp_path / "sessions.owners").write_text("in the way")
    store = SqliteSessions(tmp_path / "sessions.db", LONG)
    await store.check()
    assert isinstance(await store.begin(opening("here")), Taken)
    assert isinstance(await store.begin(opening("there")), Busy)
    await store.reap(10)
    await store.close()
