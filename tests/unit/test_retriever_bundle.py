"""Bundles: what is written comes back, and damage never does."""

from __future__ import annotations

import random
import resource
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from services.retriever.segments import bundle
from services.retriever.segments.bundle import Damaged

ARRAYS: dict[str, NDArray[Any]] = {
    "empty": np.zeros((0, 7), np.float32),
    "bytes": np.frombuffer(b"some bytes", np.uint8),
    "matrix": np.arange(3_000, dtype=np.float32).reshape(100, 30),
    "flags": np.array([True, False]),
    "keys": np.array([2**64 - 1], np.uint64),
}
META = {"name": "naïve 大", "numbers": [1, 2.5, None]}


def test_what_is_written_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle, "BLOCK", 1_000)
    bundle.write(tmp_path / "a", META, ARRAYS)
    meta, arrays = bundle.read(tmp_path / "a")
    assert meta == META == bundle.read_meta(tmp_path / "a")
    for name, array in ARRAYS.items():
        assert arrays[name].dtype == array.dtype
        assert np.array_equal(arrays[name], array)
    with pytest.raises(ValueError, match="read-only"):
        arrays["matrix"][0] = 1
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("block", [1_000, 1 << 22])
def test_every_cut_and_every_flipped_bit_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(bundle, "BLOCK", block)
    path = tmp_path / "a"
    bundle.write(path, META, ARRAYS)
    whole = path.read_bytes()
    chance = random.Random(block)
    offsets = chance.sample(range(len(whole)), 200)
    for offset in [*offsets, 0, len(whole) - 1]:
        flipped = bytearray(whole)
        flipped[offset] ^= 1 << chance.randrange(8)
        for damaged in (bytes(flipped), whole[:offset], whole[:offset] + b"x" + whole[offset:]):
            path.write_bytes(damaged)
            with pytest.raises(Damaged):
                bundle.read(path)


def test_a_full_disk_leaves_nothing_behind_and_what_was_there_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "a"
    bundle.write(path, META, ARRAYS)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8_192, limits[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            bundle.write(path, {}, ARRAYS)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [one.name for one in tmp_path.iterdir()] == ["a"]
    assert bundle.read(path)[0] == META
