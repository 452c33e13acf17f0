"""URLs of `vllm:` models for tests on a CPU."""

from __future__ import annotations

from pathlib import Path

MAX_RUNNING = 32


def url(model: Path, dtype: str = "float32") -> str:
    """Return the URL of a tiny model: not compiled, with little memory, MAX_RUNNING answers at once."""
    return f"vllm://{model}?dtype={dtype}&eager=true&kv_cache_mib=64&max_num_seqs={MAX_RUNNING}"
