"""Documents that were made to do harm, read as the service reads them: each is read or refused, in time, and the
process goes on with the next."""

from __future__ import annotations

import asyncio
import time
import zlib
from collections.abc import AsyncIterator, Callable

import pytest

from services.retriever.documents import reading
from services.retriever.documents.limits import Limits
from services.retriever.documents.parsing import Parsers
from tests.support import documents
from tests.support.documents import page_of_words, stream, written
from weft.errors import WeftError

MIB = 1 << 20
LIMITS = Limits(max_expanded_bytes=16 * MIB, max_expansion_ratio=10_000, max_memory_bytes=256 * MIB, timeout_s=10)
WORDS = "Words fill the page and say what they say. "
FONT = b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>"
RESOURCES = b"/Resources << /Font << /F 7 0 R >> >>"
PAGE = b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 9 9] " + RESOURCES + b" /Contents 4 0 R >>"
CATALOG = b"<< /Type /Catalog /Pages 2 0 R >>"
ONE_PAGE = {1: CATALOG, 2: b"<< /Type /Pages /Count 1 /Kids [3 0 R] >>", 3: PAGE, 7: FONT}


def pdf_of(content: bytes, more: bytes = b"/Filter /FlateDecode") -> bytes:
    return written({**ONE_PAGE, 4: stream(content, more)}, b"/Root 1 0 R")


def stream_bomb() -> bytes:
    return pdf_of(zlib.compress(bytes(200 * MIB), 9))


def stream_bomb_in_a_bomb() -> bytes:
    return pdf_of(zlib.compress(zlib.compress(bytes(400 * MIB), 9), 9), b"/Filter [/FlateDecode /FlateDecode]")


def many_small_bombs() -> bytes:
    bomb = zlib.compress(b"BT /F 9 Tf (words) Tj ET " * (12 * MIB // 25), 9)
    objects = {**ONE_PAGE, 2: b"<< /Type /Pages /Count 200 /Kids [%s] >>" % (b"3 0 R " * 200)}
    return written({**objects, 4: stream(bomb, b"/Filter /FlateDecode")}, b"/Root 1 0 R")


def page_tree_without_end() -> bytes:
    return written({1: CATALOG, 2: b"<< /Type /Pages /Count 9 /Kids [2 0 R 2 0 R] >>"}, b"/Root 1 0 R")


def page_tree_too_deep() -> bytes:
    nodes = {n: b"<< /Type /Pages /Count 1 /Kids [%d 0 R] >>" % (n + 1) for n in range(2, 20_000)}
    return written({1: CATALOG, **nodes, 20_000: PAGE}, b"/Root 1 0 R")


def arrays_too_deep() -> bytes:
    return written({**ONE_PAGE, 1: b"<< /Type /Catalog /Pages 2 0 R /X %s >>" % (b"[" * 200_000)}, b"/Root 1 0 R")


def form_that_draws_itself() -> bytes:
    resources = b"/Resources << /Font << /F 7 0 R >> /XObject << /X 5 0 R >> >>"
    form = stream(b"/X Do /X Do", b"/Type /XObject /Subtype /Form /BBox [0 0 9 9] " + resources)
    page = PAGE.replace(RESOURCES, resources)
    return written({**ONE_PAGE, 3: page, 4: stream(b"/X Do"), 5: form}, b"/Root 1 0 R")


def table_that_leads_to_itself() -> bytes:
    data = written({**ONE_PAGE, 4: stream(b"")}, b"/Root 1 0 R /Prev 000000")
    return data.replace(b"/Prev 000000", b"/Prev %06d" % data.rindex(b"xref\n0"))


def outline_without_end() -> bytes:
    data = documents.pdf([page_of_words(WORDS * 9)], outline=[("A", 0), ("B", 0)])
    return data.replace(b"/Next 11 0 R", b"/Next 10 0 R")


def text_font_that_maps_too_much() -> bytes:
    cmap = b"/CIDInit begin 1 beginbfrange <0000> <ffffffff> <0041> endbfrange end"
    font = b"<< /Type /Font /Subtype /Type0 /BaseFont /F /Encoding /Identity-H /ToUnicode 6 0 R /DescendantFonts [] >>"
    page = PAGE.replace(b"7 0 R", b"5 0 R")
    objects = {3: page, 4: stream(b"BT /F 9 Tf <00410042> Tj ET"), 5: font, 6: stream(cmap)}
    return written({**ONE_PAGE, **objects}, b"/Root 1 0 R")


def zip_bomb() -> bytes:
    return documents.zipped({"word/document.xml": b"<w>" + b" " * (200 * MIB)})


def zip_bomb_that_lies_about_its_size() -> bytes:
    data, size = documents.zipped({"word/document.xml": b"<w>" + b" " * (30 * MIB)}), 30 * MIB + 3
    return data.replace(size.to_bytes(4, "little"), (1_000).to_bytes(4, "little"))


def word_with(xml: str) -> bytes:
    import io
    import zipfile

    parts = {}
    with zipfile.ZipFile(io.BytesIO(documents.word(("", "x")))) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    return documents.zipped({**parts, "word/document.xml": xml.encode()})


def word_of_entities() -> bytes:
    laughs = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))
    return word_with(f'<?xml version="1.0"?><!DOCTYPE d [<!ENTITY l0 "ha">{laughs}]><d>&l9;</d>')


def word_that_reads_a_file() -> bytes:
    return word_with('<?xml version="1.0"?><!DOCTYPE d [<!ENTITY x SYSTEM "file:///etc/passwd">]><d>&x;</d>')


def word_too_deep() -> bytes:
    space = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'
    return word_with(f"<w:document {space}><w:body>" + "<w:sdt><w:sdtContent>" * 50_000)


def html_too_deep() -> bytes:
    return b"<!doctype html>" + b"<div><b>" * 500_000 + b"x"


def html_of_tables_in_tables() -> bytes:
    return b"<!doctype html>" + b"<table><tr><td>x" * 600


def html_of_attributes() -> bytes:
    return b"<!doctype html><p " + b" ".join(b"a%d=x" % n for n in range(200_000)) + b">x"


def markdown_too_deep() -> bytes:
    return b"> " * 20_000 + b"x\n\n" + b"[" * 20_000 + b"x" + b"](y)" * 20_000 + b"*a **b " * 10_000


HOSTILE: dict[Callable[[], bytes], tuple[str, set[str]]] = {
    stream_bomb: (reading.PDF, {"DOCUMENT_TOO_LARGE"}),
    stream_bomb_in_a_bomb: (reading.PDF, {"DOCUMENT_TOO_LARGE"}),
    many_small_bombs: (reading.PDF, {"DOCUMENT_TOO_LARGE"}),
    page_tree_without_end: (reading.PDF, {"DOCUMENT_UNREADABLE"}),
    page_tree_too_deep: (reading.PDF, {"DOCUMENT_TOO_LARGE"}),
    arrays_too_deep: (reading.PDF, {"DOCUMENT_UNREADABLE"}),
    form_that_draws_itself: (reading.PDF, {"DOCUMENT_EMPTY"}),
    table_that_leads_to_itself: (reading.PDF, {"DOCUMENT_EMPTY", "DOCUMENT_UNREADABLE"}),
    outline_without_end: (reading.PDF, set()),
    text_font_that_maps_too_much: (reading.PDF, {"DOCUMENT_TOO_LARGE"}),
    zip_bomb: (reading.DOCX, {"DOCUMENT_TOO_LARGE"}),
    zip_bomb_that_lies_about_its_size: (reading.DOCX, {"DOCUMENT_UNREADABLE"}),
    word_of_entities: (reading.DOCX, {"DOCUMENT_UNREADABLE"}),
    word_that_reads_a_file: (reading.DOCX, {"DOCUMENT_UNREADABLE", "DOCUMENT_EMPTY"}),
    word_too_deep: (reading.DOCX, {"DOCUMENT_UNREADABLE"}),
    html_too_deep: (reading.HTML, {"DOCUMENT_UNREADABLE"}),
    html_of_tables_in_tables: (reading.HTML, set()),
    html_of_attributes: (reading.HTML, {"DOCUMENT_TOO_LARGE"}),
    markdown_too_deep: ("text/markdown", set()),
}


@pytest.fixture
async def parsers() -> AsyncIterator[Parsers]:
    pool = Parsers(LIMITS, 1)
    yield pool
    await pool.close()


@pytest.mark.parametrize("made", HOSTILE, ids=lambda made: made.__name__)
async def test_a_hostile_file_is_read_or_refused_in_time(made: Callable[[], bytes], parsers: Parsers) -> None:
    kind, reasons = HOSTILE[made]
    data = await asyncio.to_thread(made)
    began_s = time.monotonic()
    try:
        _, chunks = await parsers.parse(data, kind)
    except WeftError as err:
        assert err.reason in reasons, err.message
        assert err.message.isprintable()
    else:
        assert not reasons
        assert all("root:" not in chunk.text for chunk in chunks)
    assert time.monotonic() - began_s < LIMITS.timeout_s + 5
    _, chunks = await parsers.parse(documents.pdf([page_of_words(WORDS)]), reading.PDF)
    assert chunks[0].page == 1
