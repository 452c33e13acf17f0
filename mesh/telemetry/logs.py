"""Log lines: JSON with trace ids, or readable on a terminal; never written by the event loop.

    log.info(...) ─> record + the call's context ─> queue (10,000) ─> thread: render, write(2)

Python's ``logging`` and structlog end in the same pipeline. What belongs to the moment of the call
(trace and span id, tenant, request id) is read there; rendering and writing, which may block on a
full pipe for as long as nobody reads it, are the thread's. A record that finds the queue full is
dropped and counted, and the count is written when there is room again.

A line: ``timestamp, level, logger, event, service, instance, trace_id, span_id, tenant, request_id``,
then what the call gave, then ``exception``. Values whose key says that they are secret are masked, as
are passwords within URLs, and no value is longer than 8,192 characters. For people (``console``) the same
is written as ``12:03:04 warning the event  key=value (logger)``, in local time.
"""

from __future__ import annotations

import asyncio
import logging
import os
import queue
import re
import select
import sys
import threading
import traceback
from collections.abc import Callable, Mapping, MutableMapping
from datetime import UTC, datetime
from typing import Any, Final

import structlog
from opentelemetry import trace

from mesh import context as call_context

FORMATS: Final = ("auto", "json", "console")
LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40}
MASK: Final = "***"
_MAX_QUEUED: Final = 10_000
_MAX_BATCH: Final = 64  # rendering holds the interpreter's lock, the write after it lets go
_MAX_VALUE_CHARS: Final = 8_192
_SECRET_KEY: Final = re.compile(
    r"(^|[_\-.])(token|secret|password|passwd|api[_\-]?key|authorization|credentials?)$", re.I
)
_URL_PASSWORD: Final = re.compile(r"(://[^/\s:@]*):[^/\s@]+@")
_STOP: Final = None
# Libraries that talk more than they should at our level.
_QUIET: Final = {
    "uvicorn": "warning",
    "uvicorn.access": "error",
    "grpc": "warning",
    "asyncio": "warning",
    "opentelemetry": "error",
}

Write = Callable[[bytes], object]
_Entry = tuple[logging.LogRecord, dict[str, Any]]  # a record, and what was true when it was made


def mask(values: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of ``values`` that may be shown: secrets by key, and passwords in URLs, are ``***``."""
    return {key: MASK if value and _SECRET_KEY.search(key) else mask_text(value) for key, value in values.items()}


def mask_text(value: Any) -> Any:
    """``value`` without the passwords of the URLs in it, if it is text."""
    if isinstance(value, str) and "://" in value:
        return _URL_PASSWORD.sub(rf"\1:{MASK}@", value)
    return value


class LogPipeline(logging.Handler):
    """The queue and the thread behind Python's ``logging``.

    Attributes:
        dropped: records that found the queue full.
    """

    def __init__(self, render: Callable[[MutableMapping[str, Any]], str], static: dict[str, str], write: Write) -> None:
        super().__init__()
        self.dropped = 0
        self._render = render
        self._static = static
        self._write = write
        self._queue: queue.SimpleQueue[_Entry | None] = queue.SimpleQueue()
        self._reported = 0
        self._thread = threading.Thread(target=self._run, name="log-writer", daemon=True)
        self._thread.start()

    def createLock(self) -> None:
        """No lock: the queue is safe by itself, and callers must not wait for each other."""
        self.lock = None

    def emit(self, record: logging.LogRecord) -> None:
        """Take a record and the context it was made in. Never waits."""
        if self._queue.qsize() >= _MAX_QUEUED:
            self.dropped += 1
            return
        fields: dict[str, Any] = {}
        span = trace.get_current_span().get_span_context()
        if span.is_valid:
            fields["trace_id"] = f"{span.trace_id:032x}"
            fields["span_id"] = f"{span.span_id:016x}"
        call = call_context.current()
        if call.request_id:
            fields["tenant"] = call.tenant
            fields["request_id"] = call.request_id
        if isinstance(record.msg, dict):  # from structlog
            fields["event"] = ""
            fields.update((key, _cut(value)) for key, value in record.msg.items())
            if fields.get("exc_info") is True:
                fields["exc_info"] = sys.exc_info()
        else:
            try:
                fields["event"] = _cut(record.getMessage())  # now: arguments may change later
            except Exception as exc:  # a wrong format must not end the caller
                fields["event"] = f"{_cut(str(record.msg))} (cannot be formatted: {exc})"
        self._queue.put((record, fields))

    async def stop(self, timeout_s: float) -> None:
        """Write what is queued and stop, within ``timeout_s``; lines nobody takes are lost.

        A warning that comes later still goes to standard error, as Python's logging does by itself.
        """
        self._queue.put(_STOP)
        await asyncio.to_thread(self._thread.join, timeout_s)
        logging.getLogger().removeHandler(self)

    # -- the writing thread -------------------------------------------------------------------------

    def _run(self) -> None:
        entry = self._queue.get()
        while entry is not _STOP:
            lines = []
            while entry is not _STOP:
                lines.append(self._line(*entry))
                if len(lines) >= _MAX_BATCH:
                    break
                try:
                    entry = self._queue.get_nowait()
                except queue.Empty:
                    break
            self._write_lines(lines)
            if entry is not _STOP:
                entry = self._queue.get()

    def _write_lines(self, lines: list[str]) -> None:
        if self.dropped > self._reported:
            count, self._reported = self.dropped - self._reported, self.dropped
            record = logging.LogRecord(__name__, logging.WARNING, "", 0, "", None, None)
            lines.append(self._line(record, {"event": "log lines were dropped, the queue was full", "count": count}))
        try:
            self._write("".join(lines).encode("utf-8", "backslashreplace"))
        except OSError:  # nobody reads any more; the process may yet have work to finish
            self.dropped += len(lines)

    def _line(self, record: logging.LogRecord, given: dict[str, Any]) -> str:
        fields: dict[str, Any] = {
            "timestamp": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            **self._static,
            **mask(given),
        }
        try:
            exc_info = fields.pop("exc_info", None) or record.exc_info
            if isinstance(exc_info, BaseException):
                exc_info = (type(exc_info), exc_info, exc_info.__traceback__)
            if isinstance(exc_info, tuple) and exc_info[0] is not None:
                fields["exception"] = "".join(traceback.format_exception(*exc_info))[-_MAX_VALUE_CHARS:]
            return self._render(fields) + "\n"
        except Exception as exc:  # a value that can't be rendered must not end the thread
            return f'{{"level":"error","event":"log line of {record.name} lost: {type(exc).__name__}"}}\n'


def configure(
    *,
    service: str,
    instance_id: str,
    level: str = "info",
    log_format: str = "auto",
    write: Write | None = None,
) -> LogPipeline:
    """Send all logging of this process through a new pipeline.

    Args:
        level: the least level written, of ``LEVELS``.
        log_format: one of ``FORMATS``; ``auto`` is console on a terminal, else JSON.
        write: takes encoded lines, from one thread; standard output when None.

    Raises:
        ValueError: unknown level or format.
    """
    if level not in LEVELS or log_format not in FORMATS:
        raise ValueError(f"log level {level!r}, format {log_format!r}: allowed are {list(LEVELS)} and {list(FORMATS)}")
    console = log_format == "console" or (log_format == "auto" and write is None and os.isatty(1))
    pipeline = LogPipeline(
        _console_line if console else _json_renderer(),
        {} if console else {"service": service, "instance": instance_id},
        write or _write_stdout,
    )
    root = logging.getLogger()
    for handler in list(root.handlers):
        if isinstance(handler, LogPipeline):
            root.removeHandler(handler)
    root.addHandler(pipeline)
    root.setLevel(LEVELS[level])
    for name, least in _QUIET.items():
        logging.getLogger(name).setLevel(max(LEVELS[least], LEVELS[level]))
    logging.captureWarnings(True)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.contextvars.merge_contextvars,
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    return pipeline


def _cut(value: Any) -> Any:
    if isinstance(value, str) and len(value) > _MAX_VALUE_CHARS:
        return f"{value[:_MAX_VALUE_CHARS]}… ({len(value)} characters)"
    return value


def _json_renderer() -> Callable[[MutableMapping[str, Any]], str]:
    renderer = structlog.processors.JSONRenderer(ensure_ascii=False, default=repr)
    return lambda fields: str(renderer(None, "", fields))


def _console_line(fields: MutableMapping[str, Any]) -> str:
    """For people: the moment, how bad, what; then what belongs to it."""
    moment = datetime.fromisoformat(fields.pop("timestamp")).astimezone()
    level, event, logger = (fields.pop(name, "") for name in ("level", "event", "logger"))
    exception = fields.pop("exception", "").rstrip()
    values = "".join(f"  {name}={value}" for name, value in fields.items())
    line = f"{moment:%H:%M:%S} {level:<7} {event}{values} ({logger})"
    return f"{line}\n{exception}" if exception else line


def _write_stdout(data: bytes) -> None:
    """write(2) on file descriptor 1, around Python's buffer: its lock, held by a thread that waits for a
    full pipe, would keep the interpreter from ending."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(1, view) :]
        except BlockingIOError:  # somebody made the pipe non-blocking
            select.select([], [1], [], 1.0)
