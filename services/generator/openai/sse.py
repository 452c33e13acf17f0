"""Server-sent events out of bytes as they come, bounded: a server can't make the reader hold more than one event.

Only `data` matters to the API. Comments keep a connection warm and are passed over, as is every other field. Lines
may end in LF, CR or both, wherever the bytes were cut. What is not ended by an empty line was cut off, and is no event.
"""

from __future__ import annotations

import re
from typing import Final

MAX_EVENT_BYTES: Final = 1 << 20
_LINE_END: Final = re.compile(rb"\r\n|\n|\r")
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"


class TooLarge(Exception):
    """An event has more than MAX_EVENT_BYTES."""


class EventParser:
    """Cuts one stream into the data of its events."""

    def __init__(self) -> None:
        self._line = bytearray()
        self._data: list[bytes] = []
        self._held_bytes = 0
        self._after_cr = False
        self._begun = False

    def feed(self, chunk: bytes) -> list[bytes]:
        """Take the next bytes, return the data of the events that they end.

        Raises:
            TooLarge: and the parser is of no more use.
        """
        if self._after_cr and chunk.startswith(b"\n"):
            chunk = chunk[1:]
            self._after_cr = False
        if not chunk:
            return []
        self._after_cr = chunk.endswith(b"\r")
        *ended, rest = _LINE_END.split(chunk)
        found = []
        for end in ended:
            self._hold(end)
            event = self._end_line()
            if event is not None:
                found.append(event)
        self._hold(rest)
        return found

    def _hold(self, part: bytes) -> None:
        self._held_bytes += len(part)
        if self._held_bytes > MAX_EVENT_BYTES:
            raise TooLarge(f"an event has more than {MAX_EVENT_BYTES} bytes")
        self._line += part

    def _end_line(self) -> bytes | None:
        line = bytes(self._line)
        self._line.clear()
        if not self._begun:
            self._begun = True
            line = line.removeprefix(_BYTE_ORDER_MARK)
        if line:
            name, _, value = line.partition(b":")
            if name == b"data":
                self._data.append(value.removeprefix(b" "))
            else:
                self._held_bytes -= len(line)
            return None
        data, self._data, self._held_bytes = self._data, [], 0
        return b"\n".join(data) if data else None
