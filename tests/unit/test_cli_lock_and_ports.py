"""One mesh per data directory, and ports that are taken."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from weft_cli.lock import DataLock, Held, holder
from weft_cli.ports import reserved, taken_by

ROOT = Path(__file__).resolve().parents[2]
HOLD = """
import sys, pathlib
from weft_cli.lock import DataLock
lock = DataLock(pathlib.Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


def hold(folder: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_holder_is_told_who_the_first_is(tmp_path: Path) -> None:
    with hold(tmp_path) as process:
        with pytest.raises(Held) as refusal:
            DataLock(tmp_path)
        assert refusal.value.pid == process.pid == holder(tmp_path)
        process.kill()
    assert holder(tmp_path) is None  # killed, and yet nothing needs to be cleaned up
    DataLock(tmp_path).release()


def test_a_lock_that_was_let_go_can_be_taken_again(tmp_path: Path) -> None:
    lock = DataLock(tmp_path)
    assert holder(tmp_path) == os.getpid()
    lock.release()
    assert holder(tmp_path) is None
    DataLock(tmp_path).release()


def test_nobody_holds_a_directory_that_is_not_there(tmp_path: Path) -> None:
    assert holder(tmp_path / "nowhere") is None


def test_a_port_that_is_taken_is_named_with_who_has_it() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        problem = taken_by("127.0.0.1", port)
        assert problem is not None
        assert f"port {port} on 127.0.0.1 is taken by pid {os.getpid()}" in problem
        with reserved("127.0.0.1", port) as other:
            assert other != port
    assert taken_by("127.0.0.1", port) is None
    with reserved("127.0.0.1", port) as same:
        assert same == port


def test_those_who_choose_at_the_same_moment_get_a_port_each(tmp_path: Path) -> None:
    script = """
import sys
from weft_cli.ports import reserved
sys.stdin.readline()
with reserved("127.0.0.1", 9500) as port:
    print(port, flush=True)
    sys.stdin.read()
"""
    environ = {**os.environ, "TMPDIR": str(tmp_path)}

    def chooser_of() -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", script],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environ,
        )  # fmt: skip

    choosers = [chooser_of() for _ in range(4)]
    try:
        for chooser in choosers:
            assert chooser.stdin is not None
            chooser.stdin.write("now\n")
            chooser.stdin.flush()
        ports = [int(chooser.stdout.readline()) for chooser in choosers if chooser.stdout is not None]
        assert len(set(ports)) == 4
        choosers[0].kill()
        choosers[0].communicate()
        assert all(port < 9_600 for port in ports)
        choosers.append(chooser_of())
        out, _ = choosers[-1].communicate("now\n", timeout=20)
        assert int(out) <= ports[0]  # killed, and its port can be had again
    finally:
        for chooser in choosers:
            if chooser.poll() is None:
                chooser.kill()
                chooser.communicate()


def test_an_address_of_another_machine_cannot_be_listened_on() -> None:
    problem = taken_by("192.0.2.1", 9500)
    assert problem is not None
    assert "cannot be listened on" in problem
