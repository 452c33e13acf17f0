"""What a `vllm:` URL says: where the model is, and how the engine is to run it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mesh.plugins import Url
from weft.errors import Reason, WeftError, error

DTYPES: Final = ("auto", "float32", "bfloat16", "float16")
_PARAMETERS: Final = ("dtype", "max_model_len", "max_num_seqs", "kv_cache_mib", "gpu_memory", "eager")
_SHAPE: Final = "vllm:///path/of/the/model"
_MAX_TOKENS: Final = 16_777_216
_MAX_SEQUENCES: Final = 65_536
_MAX_MIB: Final = 16_777_216


@dataclass(frozen=True, slots=True)
class Options:
    """A model and its engine. None leaves a choice to vLLM."""

    path: Path
    """Directory with config.json, the tokenizer and the weights."""
    dtype: str
    """Of weights and activations; "auto" takes the model's own."""
    max_model_len: int | None
    """Tokens of prompt and answer together."""
    max_num_seqs: int | None
    """Answers being made at once; further ones wait."""
    kv_cache_mib: int | None
    """Memory for the KV cache, in MiB."""
    gpu_memory: float | None
    """Share of the GPU's memory that the engine may take, above 0 to 1; with `kv_cache_mib` it has no say."""
    eager: bool
    """Whether to do without compiling the model: it starts sooner and runs slower."""


def read(url: Url) -> Options:
    """Check a URL.

    Raises:
        WeftError: INVALID_FIELD naming the parameter, what it holds and what is allowed.
    """
    for name in url.query:
        if name not in _PARAMETERS:
            raise invalid(url, f"{name!r} is no parameter; there are: {', '.join(_PARAMETERS)}")
    if url.host or not url.path.startswith("/") or url.path == "/":
        raise invalid(url, f"is not {_SHAPE}, with three slashes and a path from the root")
    path = Path(url.path)
    if not (path / "config.json").is_file():
        raise invalid(
            url, f"there is no {path}/config.json; the path must be a directory with a model as transformers saves it"
        )
    return Options(
        path=path,
        dtype=_choice(url, "dtype", DTYPES),
        max_model_len=_whole(url, "max_model_len", 2, _MAX_TOKENS),
        max_num_seqs=_whole(url, "max_num_seqs", 1, _MAX_SEQUENCES),
        kv_cache_mib=_whole(url, "kv_cache_mib", 1, _MAX_MIB),
        gpu_memory=_share(url, "gpu_memory"),
        eager=_choice(url, "eager", ("false", "true")) == "true",
    )


def invalid(url: Url, problem: str) -> WeftError:
    """What is raised for a URL that can't be used."""
    return error(Reason.INVALID_FIELD, f"{url}: {problem}", url=url)


def _choice(url: Url, name: str, allowed: tuple[str, ...]) -> str:
    """The value, by default the first of those allowed."""
    value = url.query.get(name, allowed[0])
    if value not in allowed:
        raise invalid(url, f"{name} is {value[:40]!r}; allowed is {', '.join(allowed)}")
    return value


def _whole(url: Url, name: str, low: int, high: int) -> int | None:
    raw = url.query.get(name)
    if raw is None:
        return None
    if not raw.isascii() or not raw.isdigit() or len(raw) > 12 or not low <= int(raw) <= high:
        raise invalid(url, f"{name} is {raw[:20]!r}; allowed is {low} to {high}")
    return int(raw)


def _share(url: Url, name: str) -> float | None:
    raw = url.query.get(name)
    if raw is None:
        return None
    try:
        value = float(raw)
    except ValueError:
        value = math.nan
    if not 0 < value <= 1:
        raise invalid(url, f"{name} is {raw[:20]!r}; allowed is above 0, to 1")
    return value
