"""A replica that is killed while it writes snapshots leaves a whole one behind."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

from services.retriever.replicas.replica import State
from services.retriever.replicas.snapshots import Snapshots
from services.retriever.segments.lexicon import weighted
from services.retriever.segments.view import View
from tests.support.retrieval import KEY, indexes
from tests.unit.test_retriever_view import COLLECTION, stored

LOG = "a" * 32
KILLS = 12
ROOT = Path(__file__).parents[2]
MODULE = f"tests.unit.{Path(__file__).stem}"


def held(sequence: int) -> list[str]:
    """The documents there are at a sequence: ten of the last."""
    return [f"d{number}" for number in range(max(0, sequence - 10), sequence)]


def write(directory: str, begin: int) -> None:
    """Write snapshots without end, beginning with that sequence; each is told once it is written."""
    snapshots = Snapshots.claim(Path(directory), LOG, indexes())
    view = View.empty(COLLECTION, indexes()).changed(COLLECTION, [stored(name, name) for name in held(begin)], [])
    while True:
        snapshots.save(State(begin, {KEY: view}))
        print(begin, flush=True)
        view = view.changed(COLLECTION, [stored(f"d{begin}", f"d{begin}")], [f"d{begin - 10}"])
        begin += 1


def test_a_replica_killed_while_it_writes_leaves_a_whole_snapshot(tmp_path: Path) -> None:
    chance = random.Random(3)
    sequence = 1
    for _ in range(KILLS):
        command = [sys.executable, "-c", f"from {MODULE} import write; write({str(tmp_path)!r}, {sequence})"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as child:
            assert child.stdout is not None
            told = int(child.stdout.readline())
            time.sleep(chance.random() * 0.05)
            child.kill()
            told = max([told, *map(int, child.stdout.read().splitlines())])
        snapshots = Snapshots.claim(tmp_path, LOG, indexes())
        state = snapshots.load()
        snapshots.close()
        assert snapshots.damaged == 0
        assert state.sequence >= told  # what was told to be written is there
        view = state.views[KEY]
        assert view.live_count == len(held(state.sequence))
        for name in held(state.sequence):
            (slot,), _ = view.search_words(weighted(name), 1)
            assert view.entry(int(slot)).document.name == name
        sequence = state.sequence + 1
