"""Log lines: what is in them, and that writing them never holds anybody up."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import structlog
from opentelemetry.sdk.trace import TracerProvider

from mesh import context as call_context
from mesh.telemetry.logs import LogPipeline, configure, mask


class Sink:
    """Takes what the pipeline writes; blocks while ``gate`` is closed."""

    def __init__(self) -> None:
        self.data = b""
        self.gate = threading.Event()
        self.gate.set()

    def write(self, data: bytes) -> None:
        assert self.gate.wait(10)
        self.data += data

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.data.decode().splitlines()]


@pytest.fixture
def sink() -> Sink:
    return Sink()


@pytest.fixture
def make(sink: Sink) -> Iterator[Callable[..., LogPipeline]]:
    root, level = logging.getLogger(), logging.getLogger().level
    made: list[LogPipeline] = []

    def make(**options: Any) -> LogPipeline:
        for handler in list(root.handlers):  # pytest's own, which chokes on what ours must swallow
            root.removeHandler(handler)
        made.append(configure(service="tools", instance_id="t-1", write=sink.write, **options))
        return made[-1]

    yield make
    for pipeline in made:
        root.removeHandler(pipeline)
    root.setLevel(level)
    logging.captureWarnings(False)
    structlog.reset_defaults()


async def test_a_line_names_the_process_the_trace_and_the_call(sink: Sink, make: Callable[..., LogPipeline]) -> None:
    pipeline = make(log_format="json")
    tracer = TracerProvider(shutdown_on_exit=False).get_tracer("t")
    call = call_context.CallContext(tenant="acme", request_id="r-1")
    with tracer.start_as_current_span("s") as span, call_context.bind(call):
        structlog.stdlib.get_logger("a.b").info("tool %s ran", "dates", took_ms=3, text="值\n2")
        logging.getLogger("c.d").warning("careful: %d", 7)
    logging.getLogger("c.d").info("outside")
    await pipeline.stop(2)
    first, second, third = sink.lines()
    ids = span.get_span_context()
    for line in (first, second):
        assert line["service"] == "tools"
        assert line["instance"] == "t-1"
        assert line["trace_id"] == f"{ids.trace_id:032x}"
        assert line["span_id"] == f"{ids.span_id:016x}"
        assert line["tenant"] == "acme"
        assert line["request_id"] == "r-1"
        assert line["timestamp"].endswith("+00:00")
    assert (first["level"], first["logger"], first["event"]) == ("info", "a.b", "tool dates ran")
    assert (first["took_ms"], first["text"]) == (3, "值\n2")
    assert (second["level"], second["logger"], second["event"]) == ("warning", "c.d", "careful: 7")
    assert not {"trace_id", "tenant", "request_id"} & third.keys()


async def test_exceptions_come_with_their_traceback(sink: Sink, make: Callable[..., LogPipeline]) -> None:
    pipeline = make(log_format="json")
    try:
        raise KeyError("lost")
    except KeyError:
        logging.getLogger("a").exception("by logging")
        structlog.stdlib.get_logger("a").exception("by structlog")
    await pipeline.stop(2)
    for line in sink.lines():
        assert line["level"] == "error"
        assert line["exception"].startswith("Traceback")
        assert "KeyError: 'lost'" in line["exception"]


async def test_no_record_can_end_the_writer(sink: Sink, make: Callable[..., LogPipeline]) -> None:
    pipeline = make(log_format="json")

    class Hostile:
        def __repr__(self) -> str:
            raise RuntimeError("no")

    structlog.stdlib.get_logger("a").info("hostile", value=Hostile())
    logging.getLogger("a").info("wrong %d format", "text")
    structlog.stdlib.get_logger("a").info("surrogate \ud800", data=b"\xff", number=float("nan"))
    logging.getLogger("a").info("x" * 1_000_000)
    logging.getLogger("a").info("still here")
    await pipeline.stop(2)
    text = sink.data.decode()
    assert text.count("\n") == 5
    assert "wrong %d format" in text
    assert len(text) < 20_000
    assert "still here" in text.splitlines()[-1]


async def test_secrets_are_masked(sink: Sink, make: Callable[..., LogPipeline]) -> None:
    pipeline = make(log_format="json")
    structlog.stdlib.get_logger("a").info("dial redis://u:hush@h:1/0", api_key="hush", auth_token="hush", key="open")
    logging.getLogger("a").info("dial %s", "amqp://u:hush@h/")
    await pipeline.stop(2)
    assert b"hush" not in sink.data
    assert sink.lines()[0]["event"] == "dial redis://u:***@h:1/0"
    assert sink.lines()[0]["key"] == "open"
    assert mask({"password": "", "tokens": 3, "x": "y"}) == {"password": "", "tokens": 3, "x": "y"}


async def test_levels_hold_and_libraries_are_tamed(sink: Sink, make: Callable[..., LogPipeline]) -> None:
    pipeline = make(log_format="json", level="info")
    structlog.stdlib.get_logger("a").debug("no")
    logging.getLogger("uvicorn.error").info("no")
    logging.getLogger("grpc._cython").info("no")
    logging.getLogger("grpc._cython").error("yes")
    await pipeline.stop(2)
    assert [line["event"] for line in sink.lines()] == ["yes"]
    with pytest.raises(ValueError, match="loud"):
        configure(service="s", instance_id="i", level="loud")


async def test_the_console_format_is_readable(sink: Sink, make: Callable[..., LogPipeline]) -> None:
    pipeline = make(log_format="console")
    logging.getLogger("a.b").warning("look at %s", "this")
    structlog.stdlib.get_logger("c").info("found", url="http://u:hush@h/", count=2)
    try:
        raise RuntimeError("it broke")
    except RuntimeError:
        logging.getLogger("a.b").exception("failed")
    await pipeline.stop(2)
    warned, found, failed, *traceback = sink.data.decode().splitlines()
    assert re.fullmatch(r"\d\d:\d\d:\d\d warning look at this \(a\.b\)", warned)
    assert re.fullmatch(r"[\d:]{8} info    found  url=http://u:\*\*\*@h/  count=2 \(c\)", found)
    assert failed.endswith("error   failed (a.b)")
    assert traceback[-1] == "RuntimeError: it broke"


async def test_what_finds_the_queue_full_is_dropped_counted_and_told(
    sink: Sink, make: Callable[..., LogPipeline]
) -> None:
    pipeline = make(log_format="json")
    sink.gate.clear()
    log = logging.getLogger("a")
    started_s = time.perf_counter()
    for index in range(12_000):
        log.info("line %d", index)
    assert time.perf_counter() - started_s < 5
    assert 1_900 <= pipeline.dropped <= 2_000  # 10,000 wait, up to 64 are being written
    sink.gate.set()
    await pipeline.stop(10)
    told = [line["count"] for line in sink.lines() if "dropped" in line["event"]]
    assert sum(told) == pipeline.dropped
    assert len(sink.lines()) == 12_000 - pipeline.dropped + len(told)


_FULL_PIPE = """
import asyncio, logging, sys, time
from mesh.telemetry.logs import configure

async def main():
    pipeline = configure(service="s", instance_id="i", log_format="json")
    worst_s, log = 0.0, logging.getLogger("a")
    for _ in range(300):
        for _ in range(50):
            log.info("x" * 200)
        before_s = time.perf_counter()
        await asyncio.sleep(0.001)
        worst_s = max(worst_s, time.perf_counter() - before_s)
    started_s = time.perf_counter()
    await pipeline.stop(0.2)
    print(worst_s, pipeline.dropped, time.perf_counter() - started_s, file=sys.stderr)

asyncio.run(main())
"""


def test_a_full_pipe_on_stdout_blocks_neither_the_loop_nor_the_exit() -> None:
    """15,000 lines into a pipe of 64 KiB that nobody reads."""
    unread, stdout = os.pipe()
    child = subprocess.Popen([sys.executable, "-c", _FULL_PIPE], stdout=stdout, stderr=subprocess.PIPE, text=True)
    os.close(stdout)
    try:
        _, report = child.communicate(timeout=60)
    finally:
        child.kill()
        os.close(unread)
    assert child.returncode == 0, report
    worst_s, dropped, stop_s = (float(word) for word in report.split())
    assert worst_s < 0.5
    assert dropped > 1_000
    assert stop_s < 5
