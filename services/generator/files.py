"""``python -m services.generator.files list|verify``: the model directories that this generator is set up for.

`vllm:///path` names a directory as Hugging Face lays it out. `verify` looks into it without loading anything:

    config.json          is there, and is a JSON object
    a tokenizer          tokenizer.json, tokenizer.model or vocab.json
    weights              *.safetensors: each header is read, and the file must be exactly as long as it says;
                         model.safetensors.index.json: each tensor lies in the file that it names. Weights as
                         *.bin are only seen to be there
    SHA256SUMS           where there is one (as `sha256sum * > SHA256SUMS` writes it), every file in it is read and
                         compared. Without one, bytes that were changed inside of a tensor are not noticed

Prints a JSON list, one object per directory. Exit codes: 0 all are good, 1 one is not, 2 the configuration is wrong.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from mesh.plugins import Url
from mesh.settings import load
from services.generator.settings import Settings
from weft.errors import WeftError

SUMS: Final = "SHA256SUMS"
INDEX: Final = "model.safetensors.index.json"
MAX_HEADER_BYTES: Final = 100_000_000  # the format's own bound
_TOKENIZERS: Final = ("tokenizer.json", "tokenizer.model", "vocab.json")
_SCHEMES: Final = ("vllm",)
_BITS: Final = re.compile(r"(\d+)")
_BYTE_TYPES: Final = ("BOOL",)


class Problem(Exception):
    """Something is wrong with a directory; the text says what."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m services.generator.files", description="Look at models' files.")
    parser.add_argument("what", choices=("list", "verify"))
    wanted = parser.parse_args(argv)
    try:
        models = load(Settings).generator.models
    except WeftError as err:
        print(f"weft generator: {err.message}", file=sys.stderr)
        return 2
    found = [describe(name, url, deep=wanted.what == "verify") for name, url in directories(models)]
    print(json.dumps(found, indent=2))
    return 0 if all(item["state"] == "ready" for item in found) else 1


def directories(models: dict[str, str]) -> list[tuple[str, Url]]:
    """The models that are read from a directory."""
    urls = [(name, Url.parse(raw)) for name, raw in models.items()]
    return [(name, url) for name, url in urls if url.scheme in _SCHEMES]


def describe(name: str, url: Url, *, deep: bool) -> dict[str, Any]:
    """A directory as it is printed: ready, absent or damaged."""
    folder = Path(url.path)
    problem = ""
    state = "ready" if folder.is_dir() else "absent"
    if state == "ready" and deep:
        try:
            verify(folder)
        except (Problem, OSError) as exc:
            state, problem = "damaged", str(exc)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else 0
    return {
        "service": "generator",
        "model": name,
        "url": str(url),
        "path": str(folder),
        "size_bytes": size,
        "state": state,
        "problem": problem or ("there is no such directory" if state == "absent" else ""),
    }


def verify(folder: Path) -> None:
    """Check a directory.

    Raises:
        Problem: naming the file and what is wrong with it.
    """
    _json_object(folder / "config.json")
    if not any((folder / name).is_file() for name in _TOKENIZERS):
        raise Problem(f"there is no tokenizer: none of {', '.join(_TOKENIZERS)}")
    shards = {path.name: safetensors_names(path) for path in sorted(folder.glob("*.safetensors"))}
    if not shards and not any(folder.glob("*.bin")):
        raise Problem("there are no weights: no *.safetensors")
    if (folder / INDEX).is_file():
        _check_index(folder / INDEX, shards)
    if (folder / SUMS).is_file():
        for name, wanted in _sums(folder / SUMS):
            path = folder / name
            if not path.is_file():
                raise Problem(f"{name} is missing; {SUMS} names it")
            with path.open("rb") as stream:
                found = hashlib.file_digest(stream, "sha256").hexdigest()
            if found != wanted:
                raise Problem(f"{name} has SHA-256 {found[:16]}…, {SUMS} says {wanted[:16]}…")


def safetensors_names(path: Path) -> set[str]:
    """Names of the tensors in a file whose header and length agree.

    Raises:
        Problem: they don't.
    """
    size = path.stat().st_size
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or length > min(MAX_HEADER_BYTES, size - 8):
            raise Problem(f"{path.name} is no safetensors file, or was cut short: {size} bytes")
        try:
            header = json.loads(stream.read(length))
        except ValueError:
            header = None
    if not isinstance(header, dict):
        raise Problem(f"{path.name} has no readable header")
    header.pop("__metadata__", None)
    try:
        ends = sorted(_extent(tensor) for tensor in header.values())
    except (LookupError, TypeError, ValueError, AttributeError):
        raise Problem(f"{path.name} has a header that describes no tensors") from None
    at = 0
    for begin, end in ends:
        if begin != at:
            raise Problem(f"{path.name} has tensors that overlap or leave a hole at byte {at}")
        at = end
    if 8 + length + at != size:
        raise Problem(f"{path.name} has {size} bytes, its header says {8 + length + at}: it was cut short or changed")
    return set(header)


def _extent(tensor: dict[str, Any]) -> tuple[int, int]:
    begin, end = tensor["data_offsets"]
    elements = 1
    for edge in tensor["shape"]:
        elements *= edge
    kind = tensor["dtype"]
    bits = 8 if kind in _BYTE_TYPES else int(_BITS.findall(kind)[0])
    if not 0 <= begin <= end or (end - begin) * 8 != elements * bits:
        raise ValueError
    return begin, end


def _check_index(path: Path, shards: dict[str, set[str]]) -> None:
    places = _json_object(path).get("weight_map")
    if not isinstance(places, dict):
        raise Problem(f"{path.name} has no weight_map")
    for tensor, shard in places.items():
        if shard not in shards:
            raise Problem(f"{shard} is missing; {path.name} names it")
        if tensor not in shards[shard]:
            raise Problem(f"{shard} has no tensor {tensor!r}; {path.name} says so")


def _json_object(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise Problem(f"{path.name} is missing") from None
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise Problem(f"{path.name} is no JSON object")
    return found


def _sums(path: Path) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        digest, _, name = line.strip().partition(" ")
        name = name.lstrip(" *")
        if not line.strip():
            continue
        if not re.fullmatch(r"[0-9a-fA-F]{64}", digest) or not name or ".." in Path(name).parts or name[0] == "/":
            raise Problem(f"{path.name}, line {number}: is not a SHA-256 and a file's name")
        yield name, digest.lower()


if __name__ == "__main__":
    sys.exit(main())
