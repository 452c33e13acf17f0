"""Callers in a process of their own whose answers are disturbed, and what they saw of it.

    python -m tests.support.going_on HOST:PORT

A round is one line of JSON, ``{"count": 20, "model": "slow"}``: every caller uses ``stream``; with ``"asks": true``
every other one uses ``ask``. While the round lasts it prints how many pieces of text every stream has by now,
``{"pieces": 3}``, and then ``{"callers": [...]}``: one object for each.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import httpx

import weft
from mesh.plugins import Url
from services.generator.models import scripted
from services.generator.types import Message, Piece, Request, Role
from tests.support.mesh import ROOT, Mesh, Process
from weft.errors import WeftError

TOKENS: Final = 60
_SAYS: Final = "Each of the 最后一位客人 says “Zum Löwen” 👩‍👩‍👧🦁, é, and goes on:"
_SLOW: Final = f"scripted:?text={_SAYS}&tokens={TOKENS}"
MODELS: Final = {
    "slow": f"{_SLOW}&delay_ms=50",
    "once": f"{_SLOW}&delay_ms=50&resume=false",
    "late": f"{_SLOW}&delay_ms=50&resume=false&first_delay_ms=2000",
}


async def undisturbed() -> list[str]:
    """What the models say, by tokens."""
    events = scripted.open(Url.parse(_SLOW)).generate(Request((Message(Role.USER, "?"),)))
    return [event.text async for event in events if isinstance(event, Piece)]


def calls_of(mesh: Mesh, process: Process, method: str) -> int:
    """Calls of a method that one replica has begun."""
    ports = [i.metrics_port for found in mesh.serving().values() for i in found if i.id == process.instance_id]
    lines = httpx.get(f"http://127.0.0.1:{ports[0]}/metrics", timeout=5).text.splitlines()
    counts = [line for line in lines if line.startswith("grpc_server_call_started_total") and f'/{method}"' in line]
    return sum(int(float(line.rpartition(" ")[2])) for line in counts)


class Callers:
    """A running process of callers."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def begin(self, count: int, **order: Any) -> None:
        """Begin a round: ``model``, ``question`` (with ``{number}`` for the caller's, if that is to differ), ``asks``,
        ``tools`` (names), ``timeout_s``, ``sessions`` (a name for each caller)."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"count": count, **order}) + "\n")
        self._process.stdin.flush()

    def wait_pieces(self, pieces: int) -> None:
        """Until every stream of the round has so many pieces of text."""
        while (message := self._read()).get("pieces", -1) < pieces:
            if "callers" in message:
                raise AssertionError(f"all ended before they had {pieces} pieces: {str(message)[:2_000]}")

    def finish(self) -> list[dict[str, Any]]:
        """What became of each caller of the round."""
        while "callers" not in (message := self._read()):
            pass
        found: list[dict[str, Any]] = message["callers"]
        return found

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise AssertionError(f"the callers died:\n{self._process.communicate(timeout=30)[1][-3_000:]}")
        message: dict[str, Any] = json.loads(line)
        return message


@contextmanager
def calling(mesh: Mesh) -> Iterator[Callers]:
    """Callers of ``mesh``, ended with the block."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.going_on", mesh.address],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
    )  # fmt: skip
    try:
        yield Callers(process)
    finally:
        process.kill()
        process.communicate()


class _Progress:
    """Tells, when it has grown, how many pieces every stream has."""

    def __init__(self, streams: Iterable[int]) -> None:
        self._pieces = dict.fromkeys(streams, 0)
        self._told = 0

    def piece(self, stream: int) -> None:
        self._pieces[stream] += 1
        if (least := min(self._pieces.values())) > self._told:
            self._told = least
            print(json.dumps({"pieces": least}), flush=True)


async def _stream(stream: weft.TurnStream, number: int, progress: _Progress) -> tuple[weft.Answer, dict[str, Any]]:
    kinds, texts, longest_s, last_s = [], [], 0.0, time.monotonic()
    async for event in stream:
        now_s = time.monotonic()
        longest_s, last_s = max(longest_s, now_s - last_s), now_s
        kinds.append(type(event).__name__)
        if isinstance(event, weft.TextDelta):
            texts.append(event.text)
            progress.piece(number)
    assert stream.answer is not None
    return stream.answer, {"streamed": "".join(texts), "kinds": kinds, "longest_pause_s": longest_s}


async def _caller(client: weft.Client, number: int, order: dict[str, Any], progress: _Progress) -> dict[str, Any]:
    options = {
        "model": order.get("model"),
        "session": order["sessions"][number] if "sessions" in order else None,
        "tools": order.get("tools"),
        "timeout_s": order.get("timeout_s", 60),
        "allow_cached": False,  # each caller has an answer of its own
    }
    question = order.get("question", "How are documents split into passages?").format(number=number)
    found = dict[str, Any]()
    try:
        if number % 2 and order.get("asks"):
            answer = await client.ask(question, **options)
        else:
            answer, found = await _stream(client.stream(question, **options), number, progress)
    except WeftError as err:
        return {"error": err.reason, "code": err.code.name, "message": str(err), "partial": err.partial_text}
    return found | {
        "error": None,
        "text": answer.text,
        "turn": answer.turn,
        "session": answer.session,
        "reason": str(answer.finish_reason),
        "usage": [answer.usage.input_tokens, answer.usage.output_tokens],
        "tools": [tool.text for tool in answer.tools],
        "degraded": [f"{item.stage}: {item.reason} ({item.detail})" for item in answer.degraded],
        "stages": sorted(entry.stage for entry in answer.ledger.entries),
    }


async def _round(client: weft.Client, order: dict[str, Any]) -> None:
    count, progress = order["count"], _Progress(range(0, order["count"], 2 if order.get("asks") else 1))
    found = await asyncio.gather(*(_caller(client, number, order, progress) for number in range(count)))
    print(json.dumps({"callers": found}), flush=True)


async def _main() -> None:
    async with weft.Client(mesh=sys.argv[1]) as client:
        while line := await asyncio.to_thread(sys.stdin.readline):
            await _round(client, json.loads(line))


if __name__ == "__main__":
    asyncio.run(_main())
