"""The process in which documents are read: ``python -m services.retriever.documents.parsing_child PARENT_PID LIMITS``.

Started by ``parsing`` and spoken to over stdin and stdout; no one else's to run. Before the first document it

- asks the kernel to be killed when the service is gone (Linux), whatever it is at then;
- takes a limit of memory, counted from what it has mapped by now, and the right to write files away;
- goes behind the rest of the machine (``nice``): documents can wait, searches can't;
- points its own stdout and stderr nowhere, so that no library's chatter gets among the answers.

A document that needs more memory ends in MemoryError, and so does not end the process; but the process says
``last``, since what is left of it is anybody's guess, and so it does when it has grown and not shrunk again.
"""

from __future__ import annotations

import ctypes
import json
import logging
import os
import resource
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, Final

from services.retriever.documents import reading
from services.retriever.documents.limits import Limits, problem_of
from services.retriever.documents.parsing import LENGTH_BYTES
from services.retriever.types import Chunk
from weft.errors import Reason, WeftError, error

_PR_SET_PDEATHSIG: Final = 1
_GROUP_CHUNKS: Final = 64  # in a frame: some 100 kB
_NICENESS: Final = 5  # a quarter of a busy processor, say: more, and a long document would not end in time
_MAX_TRACE_CHARS: Final = 4_000
_STATM: Final = Path("/proc/self/statm")

Read = Callable[[bytes, str, str, Limits], tuple[str, list[Chunk]]]


def main(read: Read = reading.cut) -> None:
    """Answer until stdin ends."""
    parent_pid, limits = int(sys.argv[1]), Limits(**json.loads(sys.argv[2]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the service too, which then ends this
    _leash(parent_pid)
    os.nice(_NICENESS)
    questions, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    _send(answers, {"ready": True})
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    logging.disable()
    before_bytes = _confine(limits.max_memory_bytes)
    while (question := _question(questions)) is not None:
        answer = _answer(answers, read, *question, limits)
        del question
        last = answer.pop("spent") or _mapped_bytes() - before_bytes > limits.max_memory_bytes // 4
        _send(answers, answer | {"last": last})
        if last:
            return


def _answer(answers: BinaryIO, read: Read, data: bytes, kind: str, charset: str, limits: Limits) -> dict[str, Any]:
    """Read one document and send its chunks; returns the frame that ends the answer."""
    spent, trace = False, ""
    try:
        title, chunks = read(data, kind, charset, limits)
        for start in range(0, len(chunks), _GROUP_CHUNKS):
            group = chunks[start : start + _GROUP_CHUNKS]
            _send(answers, {"chunks": [(c.text, c.start_char, c.end_char, c.section, c.page) for c in group]})
        return {"title": title, "spent": False}
    except WeftError as err:
        failure = err
    except MemoryError:
        failure, spent = limits.out_of_memory(), True
    except Exception as exc:
        failure, trace = _unreadable(kind, exc), traceback.format_exc()[-_MAX_TRACE_CHARS:]
    told = {"reason": failure.reason, "message": failure.message, "metadata": failure.metadata, "trace": trace}
    return {"error": told, "spent": spent}


def _unreadable(kind: str, exc: Exception) -> WeftError:
    """A parser's own trouble with a document."""
    problem = problem_of(exc)
    return error(
        Reason.DOCUMENT_UNREADABLE,
        f"the document could not be read as {kind}: {problem}; save it anew, or send it as text/plain",
        mime_type=kind,
        problem=problem,
    )


def _question(pipe: BinaryIO) -> tuple[bytes, str, str] | None:
    length = pipe.read(LENGTH_BYTES)
    if len(length) < LENGTH_BYTES:
        return None
    question = json.loads(pipe.read(int.from_bytes(length)))
    data = pipe.read(question["size"])
    return (data, question["kind"], question["charset"]) if len(data) == question["size"] else None


def _send(pipe: BinaryIO, frame: dict[str, Any]) -> None:
    data = json.dumps(frame).encode()
    pipe.write(len(data).to_bytes(LENGTH_BYTES) + data)
    pipe.flush()


def _leash(parent_pid: int) -> None:
    """End with the service, even if it is killed. Elsewhere than on Linux the end of stdin has to do."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent_pid:
            raise SystemExit(f"the service, pid {parent_pid}, is gone")


def _confine(memory_bytes: int) -> int:
    """Limit what this process may take from now on; returns what it has mapped already."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    mapped = _mapped_bytes()
    if mapped:  # where the kernel tells; where it doesn't, it keeps no such limit either
        resource.setrlimit(resource.RLIMIT_AS, (mapped + memory_bytes, mapped + memory_bytes))
    return mapped


def _mapped_bytes() -> int:
    try:
        return int(_STATM.read_text().split()[0]) * resource.getpagesize()
    except OSError:
        return 0


if __name__ == "__main__":
    main()
