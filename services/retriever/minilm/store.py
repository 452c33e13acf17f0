"""Where the prepared model lies, and how it gets there.

    <cache>/minilm-<hash of the published weights>-<version of the graph>/
        model.onnx        int8
        tokenizer.json
        manifest.json     SHA-256 of the two

It is built aside and renamed into place, so it is there whole or not at all; the manifest tells a file that
was damaged since. A lock file beside it lets one process work while others wait and then find it done.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import platformdirs
from filelock import FileLock, Timeout

from services.retriever.minilm import source as sources_of
from services.retriever.minilm.source import MODEL, PUBLISHED, TOKENIZER, Reporter, file_sha256
from weft.errors import Reason, error

ONNX: Final = "model.onnx"
_MANIFEST: Final = "manifest.json"
_GRAPH_VERSION: Final = 1  # raise it when graph.py makes other vectors
_LOCK_TIMEOUT_S: Final = 900


def default_cache_dir() -> Path:
    """The user's cache directory by the platform's convention."""
    return Path(platformdirs.user_cache_dir("weft", appauthor=False)) / "models"


def location(cache_dir: Path) -> Path:
    """Where the prepared model lies, or would."""
    return cache_dir / f"minilm-{PUBLISHED[MODEL][:12]}-{_GRAPH_VERSION}"


def find(cache_dir: Path) -> Path | None:
    """The prepared model's directory, or None where it isn't there or is damaged."""
    folder = location(cache_dir)
    try:
        manifest = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
        whole = all(file_sha256(folder / name) == manifest[name] for name in (ONNX, TOKENIZER))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return folder if whole else None


def prepare(cache_dir: Path, sources: Sequence[str], report: Reporter) -> Path:
    """The prepared model's directory, made now if need be.

    Raises:
        WeftError: EMBEDDER_UNAVAILABLE when no source has the model, DEPENDENCY_UNAVAILABLE when the
            cache directory can't be used or another process keeps it locked.
    """
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        with FileLock(location(cache_dir).with_suffix(".lock"), timeout=_LOCK_TIMEOUT_S):
            return find(cache_dir) or _make(cache_dir, sources, report)
    except Timeout:
        problem: object = f"another process has kept it locked for {_LOCK_TIMEOUT_S} s"
    except OSError as exc:
        problem = exc
    raise error(
        Reason.DEPENDENCY_UNAVAILABLE,
        f"the model cannot be kept in {cache_dir}: {problem}; set WEFT_RETRIEVER__MODEL_CACHE to another directory",
        cache_dir=cache_dir,
        problem=problem,
    )


def _make(cache_dir: Path, sources: Sequence[str], report: Reporter) -> Path:
    with tempfile.TemporaryDirectory(dir=cache_dir, prefix="making-") as folder:
        aside = Path(folder)
        sources_of.fetch(sources, aside, report)
        report.begin("building the int8 model", None)
        try:
            _build(aside)
        finally:
            report.end()
        built = aside / "built"
        built.mkdir()
        for name in (ONNX, TOKENIZER):
            (aside / name).rename(built / name)
        manifest = {name: file_sha256(built / name) for name in (ONNX, TOKENIZER)}
        (built / _MANIFEST).write_text(json.dumps(manifest, indent=2), encoding="utf-8")
        target = location(cache_dir)
        shutil.rmtree(target, ignore_errors=True)
        built.rename(target)
    return target


def _build(folder: Path) -> None:
    from safetensors.numpy import load_file

    from services.retriever.minilm.graph import network, quantised

    quantised(network(load_file(folder / MODEL)), folder / ONNX)
