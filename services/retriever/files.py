"""``python -m services.retriever.files list|verify``: the prepared models in this machine's cache.

`list` says which there are and how large; `verify` reads them and compares with the checksums that were taken when they
were prepared. `python -m services.retriever.prepare` makes what is absent or damaged.

Prints a JSON list. Exit codes: 0 what the default embedder needs is there, 1 it isn't, 2 the configuration is wrong.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from mesh.plugins import Url
from mesh.settings import load
from services.retriever.settings import RetrieverOptions, Settings
from weft.errors import WeftError

_NAME: Final = "all-MiniLM-L6-v2"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m services.retriever.files", description="Look at prepared models.")
    parser.add_argument("what", choices=("list", "verify"))
    wanted = parser.parse_args(argv)
    try:
        options = load(Settings).retriever
        needed = Url.parse(options.embedder).scheme == "minilm"
    except WeftError as err:
        print(f"weft retriever: {err.message}", file=sys.stderr)
        return 2
    try:
        found = describe(options, needed, deep=wanted.what == "verify")
    except ModuleNotFoundError as exc:
        problem = f"the package {exc.name!r} is missing; install the extra weft[minilm]"
        found = [_item(_NAME, None, "absent", problem, "minilm:")]
    print(json.dumps(found, indent=2))
    return 1 if needed and any(item["url"] and item["state"] != "ready" for item in found) else 0


def describe(options: RetrieverOptions, needed: bool, *, deep: bool) -> list[dict[str, Any]]:
    """MiniLM, and what else lies in the cache, such as an earlier release's: ready, absent, damaged or unused."""
    from services.retriever.minilm import store

    cache_dir = options.model_cache_dir or store.default_cache_dir()
    folder = store.location(cache_dir)
    state, problem = "ready", ""
    if not folder.is_dir():
        state = "absent"
        problem = "not prepared; `weft models pull` does" if needed else f"not needed for {options.embedder}"
    elif deep and store.find(cache_dir) is None:
        state, problem = "damaged", "its checksums don't agree; `weft models pull` makes it anew"
    found = [_item(_NAME, folder, state, problem, url="minilm:")]
    if cache_dir.is_dir():
        others = sorted(path for path in cache_dir.iterdir() if path.is_dir() and path != folder)
        found += [_item(path.name, path, "unused", "of another release; may be deleted") for path in others]
    return found


def _item(model: str, folder: Path | None, state: str, problem: str, url: str = "") -> dict[str, Any]:
    there = folder is not None and folder.is_dir()
    return {
        "service": "retriever",
        "model": model,
        "url": url,
        "path": str(folder or ""),
        "size_bytes": sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) if folder and there else 0,
        "state": state,
        "problem": problem,
    }


if __name__ == "__main__":
    sys.exit(main())
