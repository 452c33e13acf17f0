"""From bytes to text, in whatever encoding they are.

Asked in this order, and the first that fits whole is taken:

1. a byte order mark: UTF-8, UTF-16 or UTF-32;
2. UTF-8 without one. Other encodings hardly ever look like it, so it goes before what anybody says;
3. NULs where UTF-16 has them (every other byte, of texts in Latin letters);
4. what the sender declared, then what the document says of itself (HTML's ``meta``);
5. a guess by what the letters would be. It takes some tens of letters to be sure of; a few accented ones in
   an English text are read as Windows-1252, which is what they mostly are.

A binary file fits none: it holds NULs, or more control characters than any text.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable
from typing import Final

from weft.errors import Reason, WeftError, error

_MARKS: Final = (  # UTF-32's first: it begins as UTF-16's does
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
# What a name on the Web means is often larger than what it says.
_MEANT: Final = {
    "ascii": "cp1252", "iso8859-1": "cp1252", "iso8859-9": "cp1254", "gb2312": "gb18030", "gbk": "gb18030",
    "shift_jis": "cp932", "euc_kr": "cp949",
}  # fmt: skip
_WIDE: Final = ("gb18030", "cp932", "big5", "cp949", "euc_jp")
_NARROW: Final = (
    *("cp1252", "cp1251", "koi8_r", "cp1250", "cp1253", "cp1254"),
    *("cp1255", "cp1256", "cp1257", "cp874"),
)
_WIDE_SHARE: Final = 0.3  # of bytes above 0x7f, from which on a guess at a wide script goes before a narrow one
_SAMPLE_BYTES: Final = 1 << 14
_MAX_ODD_SHARE: Final = 0.01
_DAMAGED_RATIO: Final = 4  # characters that are right for one that is wrong
_HIGH: Final = re.compile(rb"[\x80-\xff]+")
# No text holds these: controls, private use, what is no character.
_ODD: Final = re.compile("[\x00-\x08\x0b\x0e-\x1a\x1c-\x1f\x7f-\x84\x86-\x9f\ue000-\uf8ff\ufdd0-\ufdef\ufffe\uffff]")


def decode(data: bytes, *declared: str) -> str:
    """The text that ``data`` is, line ends as they are.

    Raises:
        WeftError: DOCUMENT_UNREADABLE naming the first byte that isn't UTF-8, or a NUL.
    """
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            try:
                return _without_nuls(data[len(mark) :].decode(encoding))
            except UnicodeDecodeError as exc:
                raise _broken(data, exc, encoding, len(mark)) from exc
    try:
        text = data.decode()
    except UnicodeDecodeError as exc:
        if _damaged(data):
            raise _broken(data, exc) from exc
        for encoding in (*_wide_units(data), *_known(declared), *_guesses(data)):
            found = _fitting(data, encoding)
            if found is not None:
                return found
        raise _broken(data, exc) from exc
    if "\0" in text:
        for encoding in _wide_units(data):
            found = _fitting(data, encoding)
            if found is not None:
                return found
    return _without_nuls(text)


def _damaged(data: bytes) -> bool:
    """Whether it is UTF-8 but for a few bytes. To read it as anything else would make nonsense of all of it."""
    text = data.decode(errors="replace")
    wrong = text.count("\ufffd")
    right = sum(not character.isascii() for character in text) - wrong
    return right > _DAMAGED_RATIO * wrong


def _wide_units(data: bytes) -> Iterable[str]:
    """UTF-16's forms, where the NULs lie as in one of them."""
    head = data[:_SAMPLE_BYTES]
    if len(data) % 2 or b"\0" not in head:
        return ()
    first, second = head[::2].count(0), head[1::2].count(0)
    half = len(head) / 2
    if second > half / 4 and first < half / 20:
        return ("utf-16-le",)
    return ("utf-16-be",) if first > half / 4 and second < half / 20 else ()


def _known(names: Iterable[str]) -> Iterable[str]:
    for name in names:
        try:
            found = codecs.lookup(name)
        except (LookupError, ValueError):
            continue
        if found._is_text_encoding and not found.name.startswith("utf-8"):
            yield _MEANT.get(found.name, found.name)


def _guesses(data: bytes) -> list[str]:
    from charset_normalizer import from_bytes

    high = sum(len(run) for run in _HIGH.findall(data[:_SAMPLE_BYTES]))
    sample = _sample(data)
    wide_first = high > _WIDE_SHARE * len(data[:_SAMPLE_BYTES])
    order = (*_WIDE, *_NARROW) if wide_first else (*_NARROW, *_WIDE)
    ranked = []
    for match in from_bytes(sample, cp_isolation=list(order), enable_fallback=False):
        # encodings that read the sample alike are one match
        names = sorted({match.encoding, *match.could_be_from_charset} & set(order), key=order.index)
        ranked.append((round(match.chaos, 2), -match.coherence, order.index(names[0]), names))
    return [name for *_, names in sorted(ranked) for name in names]


def _sample(data: bytes) -> bytes:
    """A stretch with something to guess by, of whole lines where there are any."""
    first = _HIGH.search(data)
    start = data.rfind(b"\n", 0, first.start()) + 1 if first else 0
    if first and first.start() - start > _SAMPLE_BYTES // 2:
        start = first.start()
    stop = start + _SAMPLE_BYTES
    if stop < len(data):
        stop = data.rfind(b"\n", start, stop) + 1 or stop
    return data[start:stop]


def _fitting(data: bytes, encoding: str) -> str | None:
    try:
        text = data.decode(encoding)
    except (UnicodeError, ValueError):
        return None
    odd = len(_ODD.findall(text))
    return text if "\0" not in text and odd <= _MAX_ODD_SHARE * len(text) else None


def _without_nuls(text: str) -> str:
    nul = text.find("\0")
    if nul >= 0:
        raise error(
            Reason.DOCUMENT_UNREADABLE,
            f"the bytes are not text: there is a NUL character at position {nul}; send text, or the document as it "
            "is with its own MIME type",
            position=nul,
        )
    return text


def _broken(data: bytes, exc: UnicodeDecodeError, encoding: str = "utf-8", skipped: int = 0) -> WeftError:
    place = exc.start + skipped
    byte = f"0x{data[place]:02x}"
    name = encoding.upper()
    more = " and no other encoding that can be told" if encoding == "utf-8" and not skipped else ""
    return error(
        Reason.DOCUMENT_UNREADABLE,
        f"the bytes are not text: they are not valid {name} (byte {place} is {byte}){more}; convert them to UTF-8",
        byte_offset=place,
        byte=byte,
    )
