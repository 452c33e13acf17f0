"""What the SDK must refuse: one table, and the child process that provokes each of its rows.

    python -m tests.support.refusals HOST:PORT FOLDER

It prints one JSON object: for each row what was raised, and whether a good question was answered after it.
Sessions, folders and a second tenant that rows need are made first.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import weft

FACT = "# Ferrets\n\nA ferret sleeps eighteen hours a day. It wakes at dusk and hunts mice.\n"
QUESTION = "How many hours a day does a ferret sleep?"
ANSWER = "eighteen hours"
ONE_MB = "x" * 1_000_000
OVER_4_MIB = "x" * (4 * 1024 * 1024 + 1)


@dataclass(frozen=True)
class World:
    """What a row has at hand."""

    client: weft.Client
    stranger: weft.Client
    """Of another tenant."""
    session: str
    """Of the first tenant, made by the service."""
    folder: Path


@dataclass(frozen=True)
class Refusal:
    """A call, and what must come of it."""

    call: Callable[[World], Awaitable[Any]]
    code: str
    reason: str
    field: str | None
    says: tuple[str, ...]


def _ask(question: str = QUESTION, **options: Any) -> Callable[[World], Awaitable[Any]]:
    return lambda world: world.client.ask(question, **options)


def _search(query: str = QUESTION, **options: Any) -> Callable[[World], Awaitable[Any]]:
    return lambda world: world.client.search(query, **options)


def _invalid(call: Callable[[World], Awaitable[Any]], field: str, *says: str) -> Refusal:
    return Refusal(call, "INVALID_ARGUMENT", "INVALID_FIELD", field, (field, *says))


async def _another_mesh(_world: World) -> Any:
    async with weft.Client("127.0.0.1:1"):
        pass


async def _failed_document(world: World, name: str) -> None:
    """A document that isn't taken in comes back as a value; it is an error all the same."""
    good = weft.Document("good.md", f"{FACT}\n{name}")
    result = await world.client.ingest([good, world.folder / name], collection="mixed")
    assert result.documents == 1, result  # its neighbour is in
    (failed,) = result.failed
    assert failed.source.endswith(name), result
    raise failed.error


def _too_large(call: Callable[[World], Awaitable[Any]]) -> Refusal:
    says = ("request has 4194", "may have 4194304", "send less")
    return Refusal(call, "RESOURCE_EXHAUSTED", "MESSAGE_TOO_LARGE", None, says)


REFUSALS = {
    "an empty question": _invalid(_ask(""), "question", "empty", "at least 1"),
    "a question of blanks": _invalid(_ask(" \n\t "), "question", "empty"),
    "an empty search": _invalid(_search(""), "query", "empty", "at least 1"),
    "a question of 1 MB": _invalid(_ask(ONE_MB), "question", "1000000", "at most 8192", "shorten"),
    "a search of 1 MB": _invalid(_search(ONE_MB), "query", "1000000", "at most 8192", "shorten"),
    "a question over 4 MiB": _too_large(_ask(OVER_4_MIB)),
    "a search over 4 MiB": _too_large(_search(OVER_4_MIB)),
    "a NUL in a question": _invalid(_ask("a\x00b"), "question", "U+0000", "position 1", "remove"),
    "an escape in a search": _invalid(_search("red \x1b[31m"), "query", "U+001B", "position 4", "remove"),
    "half a surrogate pair": _invalid(_ask("a\ud800b"), "question", "UTF-8", "position 1"),
    "an unknown collection, asked": Refusal(
        _ask(collection="nowhere"), "NOT_FOUND", "COLLECTION_NOT_FOUND", None, ("collections/nowhere", "ingesting")
    ),
    "an unknown collection, searched": Refusal(
        _search(collection="nowhere"), "NOT_FOUND", "COLLECTION_NOT_FOUND", None, ("collections/nowhere", "ingesting")
    ),
    "a collection that is no name": _invalid(_search(collection="No Way!"), "collection", "No Way!", "such as"),
    "another tenant's session": Refusal(
        lambda world: world.stranger.ask(QUESTION, session=world.session),
        "NOT_FOUND", "SESSION_NOT_FOUND", None, ("no session", "Leave the session empty"),
    ),
    "another tenant's documents": Refusal(
        lambda world: world.stranger.search(QUESTION), "NOT_FOUND", "COLLECTION_NOT_FOUND", None, ("ingesting",)
    ),
    "a session that is no name": _invalid(_ask(session="a/b\x00"), "session", "expected a name such as"),
    "top_k 0, asked": _invalid(_ask(top_k=0), "top_k", "is 0", "1 to 20"),
    "top_k 0, searched": _invalid(_search(top_k=0), "top_k", "is 0", "1 to 100"),
    "top_k 10⁶, asked": _invalid(_ask(top_k=10**6), "top_k", "is 1000000", "1 to 20"),
    "top_k 10⁶, searched": _invalid(_search(top_k=10**6), "top_k", "is 1000000", "1 to 100"),
    "top_k -1": _invalid(_search(top_k=-1), "top_k", "is -1", "1 to 100"),
    "top_k 2⁴⁰": _invalid(_search(top_k=2**40), "top_k", "is 1099511627776", "1 to 100"),
    "no time at all": _invalid(_ask(timeout_s=0), "timeout_s", "is 0", "above 0"),
    "an expired deadline": Refusal(
        _ask(timeout_s=1e-9), "DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED", None, ("give more",)
    ),
    "an unknown tool": Refusal(
        _ask(tools=["hammer"]), "NOT_FOUND", "TOOL_NOT_FOUND", "tools", ("hammer", "there are", "calculator")
    ),
    "a tool that is no name": _invalid(_ask(tools=["Big Hammer"]), "tools[0]", "Big Hammer", "such as"),
    "an unknown model": Refusal(
        _ask(model="oracle"), "NOT_FOUND", "MODEL_NOT_FOUND", "model", ("oracle", "extractive", "Leave")
    ),
    "a file in a broken encoding": Refusal(
        lambda world: _failed_document(world, "broken.txt"),
        "INVALID_ARGUMENT", "DOCUMENT_UNREADABLE", None, ("UTF-8", "byte 17", "0xff", "convert"),
    ),
    "a file that holds NULs": Refusal(
        lambda world: _failed_document(world, "binary.txt"),
        "INVALID_ARGUMENT", "DOCUMENT_UNREADABLE", None, ("NUL", "position 4"),
    ),
    "an empty file": Refusal(
        lambda world: _failed_document(world, "empty.md"), "INVALID_ARGUMENT", "DOCUMENT_EMPTY", None, ("no text",)
    ),
    "a folder without readable files": Refusal(
        lambda world: world.client.ingest(world.folder / "pictures"),
        "INVALID_ARGUMENT", "INVALID_FIELD", "paths", ("pictures", "no readable files", ".md"),
    ),
    "a path that isn't there": Refusal(
        lambda world: world.client.ingest(world.folder / "gone.md"),
        "INVALID_ARGUMENT", "INVALID_FIELD", "paths", ("gone.md", "does not exist"),
    ),
    "a second mesh in one process": Refusal(
        _another_mesh, "INVALID_ARGUMENT", "INVALID_FIELD", None,
        ("already dials the mesh at", "127.0.0.1:1", "another process"),
    ),
}  # fmt: skip


def make_files(folder: Path) -> None:
    """The files that rows name."""
    (folder / "fact.md").write_text(FACT)
    (folder / "broken.txt").write_bytes("Éléphant à côté".encode()[:17] + b"\xff" + "é".encode())
    (folder / "binary.txt").write_bytes(b"abcd\x00\x01\x02" * 50)
    (folder / "empty.md").write_bytes(b"")
    (folder / "pictures").mkdir()
    (folder / "pictures" / "cat.png").write_bytes(b"\x89PNG\r\n")


async def provoke(refusal: Refusal, world: World) -> dict[str, Any]:
    """What came of one row, and whether the mesh still answers."""
    try:
        found: dict[str, Any] = {"returned": repr(await refusal.call(world))[:500]}
    except weft.WeftError as exc:
        found = {
            "type": type(exc).__name__,
            "code": exc.code.name,
            "reason": exc.reason,
            "field": exc.field,
            "message": exc.message,
            "metadata": exc.metadata,
            "retryable": exc.retryable,
        }
    answer = await world.client.ask(QUESTION)
    found["harmed"] = "" if ANSWER in answer.text and not answer.degraded else f"{answer.text!r} {answer.degraded}"
    return found


async def main() -> None:
    address, folder = sys.argv[1], Path(sys.argv[2])
    async with weft.Client(address) as client, weft.Client(address, tenant="stranger") as stranger:
        first = await client.ask(QUESTION)
        world = World(client, stranger, first.session, folder)
        print(json.dumps({name: await provoke(refusal, world) for name, refusal in REFUSALS.items()}))


if __name__ == "__main__":
    asyncio.run(main())
