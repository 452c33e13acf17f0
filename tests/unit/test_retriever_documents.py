"""HTML, PDF and Word: words, structure, titles, pages; files that are broken, locked, or not what they are called."""

from __future__ import annotations

import random
from collections.abc import Callable

import pypdf
import pytest

from services.retriever.documents import reading
from services.retriever.documents.limits import Limits
from services.retriever.parsers import docx, html, pdf
from services.retriever.types import BlockKind, Parsed
from tests.support import documents
from tests.support.documents import page_of_words
from weft.errors import WeftError

WORDS = "Words fill the page and say what they say. " * 12


def blocks(parsed: Parsed, kind: BlockKind) -> list[str]:
    return [parsed.text[block.start : block.end] for block in parsed.blocks if block.kind is kind]


def refusal(data: bytes, kind: str, **limits: int) -> WeftError:
    with pytest.raises(WeftError) as caught:
        reading.read(data, kind, "", Limits(**limits))
    return caught.value


# -- HTML ---------------------------------------------------------------------------------------------------


def page(body: str, head: str = "") -> Parsed:
    return html.parse(f"<!doctype html><html><head>{head}</head><body>{body}</body></html>".encode())


def test_html_keeps_headings_lists_tables_and_listings() -> None:
    parsed = page(
        "<h1>The <em>Page</em></h1><p>Some\n text<br>next line</p>"
        "<ul><li>one<li><p>two</p><ol start=3><li>deep</ol></ul>"
        "<table><tr><th>a<th>b<tr><td>1<td><p>2</p><p>3</p></table>"
        '<pre><code class="language-py">if a &lt; b:\n    go()</code></pre>'
    )
    assert parsed.text == (
        "# The Page\n\nSome text\nnext line\n- one\n- two\n  3. deep\n\n"
        "| a | b |\n|---|---|\n| 1 | 2 3 |\n\n```py\nif a < b:\n    go()\n```"
    )
    assert blocks(parsed, BlockKind.HEADING) == ["# The Page"]
    assert parsed.title == "The Page"


def test_what_is_around_a_page_is_left_out() -> None:
    parsed = page(
        "<nav><a>Home</a></nav><header><h1>Kept</h1></header><script>no()</script><div hidden>no</div>"
        "<ul role=menu><li>no</ul><p>kept<style>x{}</style> too<!-- no --><svg><text>no</text></svg></p>"
        "<article>text<footer>its author</footer></article><footer>© no</footer>",
        head="<title>  The\n title </title><style>no</style>",
    )
    assert parsed.text == "# Kept\n\nkept too\n\ntext\n\nits author"
    assert parsed.title == "The title"


def test_a_page_that_names_its_main_part_is_that_part() -> None:
    assert page("<div>around it</div><main><p>the page</main><aside>beside it</aside>").text == "the page"


def test_a_table_that_lays_the_page_out_is_read_as_what_is_in_it() -> None:
    parsed = page("<table><tr><td><h2>Left</h2><p>text</td><td><ul><li>item</ul></td></tr></table>")
    assert parsed.text == "## Left\n\ntext\n- item"


def test_line_breaks_between_chinese_letters_stand_for_nothing() -> None:
    assert page("<p>第一行\n  第二行\nand\nmore").text == "第一行第二行 and more"


@pytest.mark.parametrize(
    "declaration",
    ['<meta charset="shift_jis">', "<META http-equiv=Content-Type content='text/html; charset=Shift_JIS'>"],
)
def test_html_is_read_in_the_charset_that_it_declares(declaration: str) -> None:
    data = f"<html><head>{declaration}</head><body>短い</body></html>".encode("shift_jis")
    assert html.parse(data).text == "短い"


def test_xhtml_with_a_declaration_is_read() -> None:
    assert html.parse('<?xml version="1.0" encoding="UTF-8"?><html><body><p>né</p></body></html>'.encode()).text == "né"


def test_deep_html_is_read_or_refused_by_its_depth() -> None:
    assert page("<div>" * 1_000 + "deep").text == "deep"
    err = refusal(b"<div>" * 100_000 + b"deep", reading.HTML)
    assert (err.reason, err.metadata["max_depth"]) == ("DOCUMENT_UNREADABLE", "2048")


# -- PDF ----------------------------------------------------------------------------------------------------


def test_a_pdf_gives_paragraphs_headings_and_pages() -> None:
    data = documents.pdf(
        [
            [
                *((18, "第一章 概述"), (11, "控制平面保存服务目录,并把它推送给"), (11, "每个客户端。")),
                *((11, ""), (11, "Another para-"), (11, "graph.")),
            ],
            [(18, "Setup"), (11, "Install it,"), (11, "then run it."), (11, "• first"), (11, "• second")],
        ],
        title="手册",
    )  # fmt: skip
    parsed = pdf.parse(data)
    assert parsed.text == (
        "# 第一章 概述\n\n控制平面保存服务目录,并把它推送给每个客户端。\n\nAnother paragraph.\n\n"
        "# Setup\n\nInstall it, then run it.\n\n• first\n\n• second"
    )
    assert (parsed.title, len(parsed.pages)) == ("手册", 2)


def test_a_passage_knows_its_page_and_its_section() -> None:
    pages = [page_of_words(f"On page {n}. {WORDS}", heading=f"Chapter {n}") for n in range(1, 13)]
    _, chunks = reading.cut(documents.pdf(pages), reading.PDF, "", Limits())
    assert [(chunk.page, chunk.section) for chunk in chunks] == [(n, (f"Chapter {n}",)) for n in range(1, 13)]


def test_an_outline_says_what_the_headings_are() -> None:
    pages = [
        [(11, "Intro"), (11, "words"), (18, "A large remark")],
        [(11, "2.1 Setup"), (11, "of"), (11, "it"), (11, "more")],
    ]
    parsed = pdf.parse(documents.pdf(pages, outline=[("Intro", 0), ("Setup of it", 1)]))
    assert blocks(parsed, BlockKind.HEADING) == ["# Intro", "# 2.1 Setup of it"]


def test_running_heads_and_page_numbers_go() -> None:
    pages = [
        [(9, f"Handbook {n}"), *page_of_words(f"Page {n} tells this. {WORDS}"), (9, f"{n} of 6")] for n in range(6)
    ]
    text = pdf.parse(documents.pdf(pages)).text
    assert "Handbook" not in text
    assert "of 6" not in text
    assert all(f"Page {n} tells" in text for n in range(6))


@pytest.mark.parametrize("title", ["", "Microsoft Word - final.doc", "thesis.tex", "untitled"])
def test_a_title_that_a_program_made_up_is_none(title: str) -> None:
    assert pdf.parse(documents.pdf([[(18, "The heading"), (11, WORDS)]], title=title)).title == "The heading"


def test_a_scan_is_told_as_one() -> None:
    err = refusal(documents.pdf([[], [], []]), reading.PDF)
    assert err.reason == "DOCUMENT_EMPTY"
    assert "no text on its pages (3)" in err.message
    assert "OCR" in err.message


def encrypted(user_password: str) -> bytes:
    import io

    writer = pypdf.PdfWriter(io.BytesIO(documents.pdf([[(11, "A secret")]])))
    writer.encrypt(user_password, "owner", algorithm="RC4-128")
    out = io.BytesIO()
    writer.write(out)
    return out.getvalue()


def test_an_encrypted_pdf_is_refused_unless_it_opens_without_a_password() -> None:
    assert "encrypted" in refusal(encrypted("sesame"), reading.PDF).message
    assert pdf.parse(encrypted("")).text == "A secret"


def test_more_pages_than_allowed_are_refused_with_both_figures() -> None:
    err = refusal(documents.pdf([[(11, "x")]] * 6), reading.PDF, max_pages=5)
    assert err.reason == "DOCUMENT_TOO_LARGE"
    assert (err.metadata["limit"], err.metadata["pages"], err.metadata["max_pages"]) == ("pages", "6", "5")


# -- Word ---------------------------------------------------------------------------------------------------


def test_a_packed_document_may_unpack_to_so_many_times_its_size_and_a_small_one_to_32_mib() -> None:
    blanks = documents.zipped({"word/document.xml": b"<w>", "word/styles.xml": b" " * (40 << 20)})
    for ratio, allowed in ((100, 32 << 20), (1_000, 1_000 * len(blanks))):
        err = refusal(blanks, reading.DOCX, max_expansion_ratio=ratio)
        assert (err.reason, err.metadata["limit"]) == ("DOCUMENT_TOO_LARGE", "expanded_bytes")
        assert (err.metadata["packed_bytes"], err.metadata["allowed_bytes"]) == (str(len(blanks)), str(allowed))
        assert err.metadata["expanded_bytes"] == str((40 << 20) + 3)
        assert f"{allowed} bytes, for one of {len(blanks)}, is the limit" in err.message
    assert refusal(blanks, reading.DOCX, max_expansion_ratio=10_000).reason == "DOCUMENT_UNREADABLE"  # it is no Word
    assert "for one of" not in refusal(blanks, reading.DOCX, max_expanded_bytes=1 << 20).message
    repeated = documents.word(*[("", "The same words again and again. " * 30)] * 2_000)
    assert len(repeated) * 25 < 1_900_000  # of text alone
    assert reading.read(repeated, reading.DOCX, "", Limits()).text.count("again and again") == 60_000


def test_word_keeps_its_headings_lists_and_tables() -> None:
    data = documents.word(
        *(("Title", "The guide"), ("", "Plain words,"), ("Heading 1", "安装")),
        *(("List Bullet", "one"), ("Heading 2", "Deep")),
        title="In the properties", table=[["a", "b"], ["1", "2"]],
    )  # fmt: skip
    parsed = docx.parse(data)
    assert parsed.text == "# The guide\n\nPlain words,\n\n# 安装\n- one\n\n## Deep\n\n| a | b |\n| 1 | 2 |"
    assert parsed.title == "In the properties"
    assert parsed.pages == ()


def test_word_without_a_title_is_called_after_its_first_heading() -> None:
    assert docx.parse(documents.word(("Heading 2", "First"), ("", "text"))).title == "First"


def test_a_locked_or_old_word_file_and_another_zip_are_told_as_such() -> None:
    assert "without a password" in refusal(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600), reading.DOCX).message
    assert "word/document.xml" in refusal(documents.zipped({"a.txt": b"x"}), reading.DOCX).message


# -- what they are ------------------------------------------------------------------------------------------

PDF_BYTES = documents.pdf([[(11, "A short text")]])
WORD_BYTES = documents.word(("", "A short text"))


@pytest.mark.parametrize(
    ("source", "declared", "data", "kind"),
    [
        ("a.txt", "", PDF_BYTES, reading.PDF),
        ("a", "text/plain", b"\n" + PDF_BYTES, reading.PDF),
        ("a.md", "", WORD_BYTES, reading.DOCX),
        ("a.zip", "application/zip", WORD_BYTES, reading.DOCX),
        ("a.pdf", "application/octet-stream", PDF_BYTES, reading.PDF),
        ("a.html", "", b"<p>x", reading.HTML),
        ("a.HTM", "", b"x", reading.HTML),
        ("a", "application/xhtml+xml", b"<p>x", reading.HTML),
        ("https://weft.dev/page?v=1.2", "", b"\n<!-- c --> <!DOCTYPE html><p>x", reading.HTML),
        ("page.php", "", b"<html><p>x", reading.HTML),
        ("a.txt", "", b"<html>is how HTML begins", reading.TEXT),
        ("notes", "", b"%PDF is what a PDF begins with", reading.TEXT),
        ("a.docx", "", b"", reading.DOCX),
    ],
)
def test_the_kind_is_what_the_bytes_say_if_they_say_it_else_what_they_are_called(
    source: str, declared: str, data: bytes, kind: str
) -> None:
    assert reading.mime_type(source, declared, data) == kind


@pytest.mark.parametrize("kind", [reading.PDF, reading.DOCX])
def test_a_file_that_is_not_what_it_is_called_is_refused(kind: str) -> None:
    assert refusal(b"Just words.", kind).reason == "DOCUMENT_UNREADABLE"


def test_a_declared_charset_is_found() -> None:
    assert reading.charset('text/plain; Charset="GB2312"') == "gb2312"
    assert reading.charset("text/plain") == reading.charset("") == ""


def long_pdf() -> bytes:
    return documents.pdf([page_of_words(WORDS, heading=f"Chapter {n}") for n in range(4)], outline=[("Chapter 1", 1)])


def long_word() -> bytes:
    return documents.word(*[("Heading 1", "A"), ("", WORDS)] * 10, table=[["a", "b"]] * 5)


@pytest.mark.parametrize(("kind", "made"), [(reading.PDF, long_pdf), (reading.DOCX, long_word)])
def test_a_file_cut_short_anywhere_is_refused(kind: str, made: Callable[[], bytes]) -> None:
    whole = made()
    rng = random.Random(20261121)
    reading.read(whole, kind)
    for _ in range(200):
        end = rng.randrange(len(whole) - 8)
        assert refusal(whole[:end], kind).reason == "DOCUMENT_UNREADABLE", end


@pytest.mark.parametrize(("kind", "made"), [(reading.PDF, long_pdf), (reading.DOCX, long_word)])
def test_a_file_with_flipped_bits_is_read_or_refused(kind: str, made: Callable[[], bytes]) -> None:
    whole = made()
    rng = random.Random(20261122)
    reasons = set()
    for _ in range(40):
        data = bytearray(whole)
        for _ in range(rng.randrange(1, 20)):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        try:
            reading.read(bytes(data), kind)
        except WeftError as err:
            reasons.add(err.reason)
    assert "DOCUMENT_UNREADABLE" in reasons
    assert reasons <= {"DOCUMENT_UNREADABLE", "DOCUMENT_EMPTY", "DOCUMENT_TOO_LARGE"}
