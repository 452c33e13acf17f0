"""Finding the mesh, refusing what can't be sent, and the names that the SDK exports."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

import weft
from tests.support.scripted import scripted_server
from weft.settings import find_mesh

ROOT = Path(__file__).resolve().parents[2]
EXPORTED = """
Aborted AlreadyExists Answer Cancelled Citation Client Collection DataLoss DeadlineExceeded Degradation Document Epoch
Event
FailedDocument FailedPrecondition Finished Hit IngestProgress IngestResult Internal InvalidArgument Job
JobProgress Ledger LedgerEntry MeshAlreadyBound NotFound Passage PermissionDenied Reason ResourceExhausted Retrieved
SearchResult Started StoredDocument TextDelta ToolCall ToolResult TurnStream Unavailable Unimplemented Usage WeftError
as_dict
"""


def test_the_exported_names_are_these_and_all_can_be_had() -> None:
    assert sorted(weft.__all__) == sorted(EXPORTED.split()) == sorted(dir(weft))
    assert all(getattr(weft, name) is not None for name in EXPORTED.split())
    with pytest.raises(AttributeError, match="Klient"):
        _ = weft.Klient  # type: ignore[attr-defined]


def test_importing_the_sdk_loads_nothing_until_a_name_is_used() -> None:
    code = "import weft, sys; assert 'grpc' not in sys.modules; weft.Client; assert 'grpc' in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=30)


def test_the_sdk_needs_neither_the_mesh_nor_the_opentelemetry_sdk() -> None:
    code = (
        "import weft, sys; weft.Client;"
        "roots = {m.partition('.')[0] for m in sys.modules};"
        "found = roots & {'mesh', 'services', 'weft_cli', 'pydantic', 'typer', 'rich'};"
        "assert not found, found; assert 'opentelemetry.sdk' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=30)


def test_the_mesh_is_what_is_told_then_the_data_directory_then_the_environment_then_this_machine(
    tmp_path: Path,
) -> None:
    (tmp_path / "mesh.json").write_text(json.dumps({"mesh": "127.0.0.1:1"}))
    environ = {"WEFT_MESH": "127.0.0.1:2,127.0.0.1:3"}
    assert find_mesh("h:9", tmp_path, environ) == ("h:9",)
    assert find_mesh(None, tmp_path, environ) == ("127.0.0.1:1",)
    assert find_mesh(None, None, environ) == ("127.0.0.1:2", "127.0.0.1:3")
    assert find_mesh(None, None, {}) == ("127.0.0.1:9500",)


@pytest.mark.parametrize("address", ["", "localhost", "h:0", "h:70000", ":1", "a:1,b"])
def test_an_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(weft.InvalidArgument, match="host:port"):
        weft.Client(address)


@pytest.mark.parametrize("content", [None, "{", "[]", "{}"])
def test_a_data_directory_without_a_mesh_says_how_to_start_one(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "mesh.json").write_text(content)
    with pytest.raises(weft.Unavailable, match=f"weft up --data {tmp_path}"):
        weft.Client(data_dir=tmp_path)


async def test_a_mesh_that_is_not_there_is_told_at_once_by_its_address() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    begun_s = time.monotonic()
    with pytest.raises(weft.Unavailable, match="weft up") as failure:
        async with weft.Client(address):
            pass
    assert time.monotonic() - begun_s < 10
    assert failure.value.metadata["mesh"] == address


async def test_a_mesh_that_listens_but_does_not_answer_is_told_within_seconds() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        begun_s = time.monotonic()
        with pytest.raises(weft.Unavailable, match="weft up"):
            async with weft.Client(f"127.0.0.1:{silent.getsockname()[1]}"):
                pass
    assert time.monotonic() - begun_s < 10


def test_a_second_mesh_in_one_process_is_refused() -> None:
    code = """
import asyncio, weft
from tests.support.scripted import scripted_server

async def main():
    async with scripted_server() as one, scripted_server() as two:
        async with weft.Client(f"127.0.0.1:{one.port}"):
            async with weft.Client(f"127.0.0.1:{one.port}"):
                pass
            try:
                async with weft.Client(f"127.0.0.1:{two.port}"):
                    raise SystemExit("was let in")
            except weft.MeshAlreadyBound as exc:
                assert str(one.port) in str(exc) and str(two.port) in str(exc), exc

asyncio.run(main())
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=60)


def test_a_wrong_address_does_not_bind_the_process() -> None:
    code = """
import asyncio, weft
from tests.support.scripted import scripted_server

async def main():
    async with scripted_server() as server:
        try:
            async with weft.Client("127.0.0.1:1"):
                raise SystemExit("was let in")
        except weft.Unavailable:
            pass
        async with weft.Client(f"127.0.0.1:{server.port}"):
            pass

asyncio.run(main())
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=60)


async def test_a_client_that_is_not_open_says_how_to_open_it() -> None:
    with pytest.raises(RuntimeError, match="async with"):
        await weft.Client().search("x")


async def test_what_cannot_be_sent_is_refused_by_name() -> None:
    async with scripted_server() as server, server.client() as c:
        for field, call in {
            "question": lambda: c.ask("lone \ud800 surrogate"),
            "query": lambda: c.search("\udfff"),
            "top_k": lambda: c.search("x", top_k=-1),
            "timeout_s": lambda: c.search("x", timeout_s=0),
            "collection": lambda: c.search("x", collection="\ud800"),
        }.items():
            with pytest.raises(weft.InvalidArgument) as failure:
                await call()
            assert failure.value.field == field
        assert (await c.search("x")).hits == ()  # and nothing else is harmed


@pytest.mark.parametrize("tenant", ["", "Acme", "a b", "ü", "x" * 64])
def test_a_tenant_that_is_none_is_refused(tenant: str) -> None:
    with pytest.raises(weft.InvalidArgument, match="lower-case"):
        weft.Client(tenant=tenant)


@pytest.mark.parametrize("headers", [{"Weft-Route-X": "1"}, {"a b": "1"}, {"x": "ü"}, {"x": "a\nb"}])
def test_a_header_that_is_none_is_refused(headers: dict[str, str]) -> None:
    with pytest.raises(weft.InvalidArgument, match="header"):
        weft.Client(headers=headers)
