"""A reading process whose parser does what the document says; ``Parsers(…, module=__name__)`` starts it."""

from __future__ import annotations

import ctypes
import os
import time

from services.retriever.documents import reading
from services.retriever.documents.limits import Limits
from services.retriever.documents.parsing_child import main
from services.retriever.types import Chunk


def read(data: bytes, kind: str, charset: str, limits: Limits) -> tuple[str, list[Chunk]]:
    """Read a document as the service does, unless it begins with an order."""
    held = b""
    match data.split():
        case [b"sleep", seconds]:
            time.sleep(float(seconds))
        case [b"segfault"]:
            ctypes.string_at(0)
        case [b"allocate", size]:
            held = bytes(int(size))
        case [b"recurse"]:
            return read(data, kind, charset, limits)
        case [b"exit", code]:
            os._exit(int(code))
        case [b"chatter"]:
            os.write(1, b"among the answers")
        case [b"raise"]:
            raise KeyError("a parser's own mistake")
        case [b"parent"]:
            return str(os.getppid()), []
    return reading.cut(data, kind, charset, limits) if not held else (str(len(held)), [])


if __name__ == "__main__":
    main(read)
