"""The real embedding model for tests, prepared once into the user's cache like anybody's."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mesh.settings import load
from services.retriever.settings import Settings
from weft.errors import WeftError


class Quiet:
    """A reporter that keeps what was said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)

    def begin(self, what: str, total_bytes: int | None) -> None:
        self.lines.append(what)

    def advance(self, size_bytes: int) -> None:
        """Nobody counts."""

    def end(self) -> None:
        """Nobody waits."""


def model_cache() -> Path:
    """The directory of the prepared model; skips the test where it can't be had, but not with CI."""
    from services.retriever.minilm import store  # the extra's libraries are imported only here

    options = load(Settings).retriever
    cache = options.model_cache_dir or store.default_cache_dir()
    try:
        store.prepare(cache, options.model_sources, Quiet())
    except WeftError as err:
        if os.environ.get("CI"):
            pytest.fail(err.message)
        pytest.skip(err.message)
    return cache
