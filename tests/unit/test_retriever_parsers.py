"""Parsers: what a reader sees, its structure, its title; and what can't be read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.retriever.documents import reading
from services.retriever.documents.chunking import TARGET_UNITS, units
from services.retriever.parsers import markdown, text
from services.retriever.types import BlockKind, Parsed
from weft.errors import WeftError


def blocks(parsed: Parsed, kind: BlockKind) -> list[str]:
    return [parsed.text[block.start : block.end] for block in parsed.blocks if block.kind is kind]


def reason_of(data: bytes, kind: str = "text/plain") -> WeftError:
    with pytest.raises(WeftError) as caught:
        reading.read(data, kind)
    return caught.value


def test_markdown_keeps_its_words_and_the_marks_that_say_what_a_line_is() -> None:
    parsed = markdown.parse(b"Top\n===\n\nSome *fine* `code` in [a link](http://x) ![and a picture](y.png).\n")
    assert parsed.text == "# Top\n\nSome fine code in a link and a picture."
    assert parsed.title == "Top"


def test_lists_keep_their_numbers_and_depth() -> None:
    parsed = markdown.parse(b"3. three\n4. four\n   - deep\n\ntext")
    assert parsed.text == "3. three\n4. four\n  - deep\n\ntext"


def test_tables_stay_tables_a_block_for_each_row() -> None:
    parsed = markdown.parse(b"Ports\n\na | b\n-|:-\n1 | `2`\n3 |\n\n| | |\n|---|---|\n| x | y |\n")
    assert blocks(parsed, BlockKind.PROSE) == ["Ports", "| a | b |\n|---|---|", "| 1 | 2 |", "| 3 |  |", "| x | y |"]
    assert parsed.text == "Ports\n\n| a | b |\n|---|---|\n| 1 | 2 |\n| 3 |  |\n\n| x | y |"


def test_a_listing_keeps_its_fences() -> None:
    parsed = markdown.parse(
        b"```sh title=x\nls  -l\n\nps\n```\n\n~~~\n```\n~~~\n\n1. ```\n   in an item\n   ```\n\n```\n```\n"
    )
    assert blocks(parsed, BlockKind.CODE) == [
        "```sh\nls  -l\n\nps\n```",
        "````\n```\n````",
        "1. ```\nin an item\n```",
    ]


def test_an_indented_listing_gets_fences() -> None:
    assert markdown.parse(b"So:\n\n    ls\n      -l\n").text == "So:\n\n```\nls\n  -l\n```"


def test_a_listing_too_long_for_a_passage_becomes_several() -> None:
    lines = [f"line {number}" + " of code" * 5 for number in range(100)]
    listings = blocks(markdown.parse("\n".join(["```py", *lines, "```"]).encode()), BlockKind.CODE)
    assert len(listings) > 4
    assert all(units(listing) <= TARGET_UNITS for listing in listings)
    assert all(listing.startswith("```py\n") and listing.endswith("\n```") for listing in listings)
    assert [line for listing in listings for line in listing.split("\n")[1:-1]] == lines


def test_html_loses_its_tags_comments_and_scripts() -> None:
    parsed = markdown.parse(b"<div>\n<b>kept</b> <!-- not --> <script>no()</script>\n</div>\n\nand <i>this</i> too")
    assert parsed.text == "kept\n\nand this too"


def test_front_matter_gives_the_title_and_goes() -> None:
    parsed = markdown.parse(b"---\ntitle: 'From the front'\ntags: [a]\n---\n# Heading\n\ntext")
    assert parsed.title == "From the front"
    assert parsed.text == "# Heading\n\ntext"


def test_a_rule_at_the_top_is_not_front_matter() -> None:
    assert markdown.parse(b"---\n\ntext\n\n---\nmore").text == "text\n\nmore"


def test_line_breaks_in_chinese_stand_for_nothing() -> None:
    assert markdown.parse("第一行\n第二行\nand\nmore".encode()).text == "第一行第二行and more"


def test_a_long_text_is_parsed_in_pieces_and_comes_out_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    source = "".join(
        f"# Part {n}\n\n" + "words *and* more\n" * 3 + "\n```\na\n\n# no heading\n```\n\n" for n in range(60)
    )
    whole = markdown.parse(source.encode())
    monkeypatch.setattr(markdown, "PIECE_CHARS", 200)
    pieces = list(markdown._pieces(source))
    assert len(pieces) > 10
    assert "".join(pieces) == source
    assert markdown.parse(source.encode()) == whole


def test_a_text_without_line_ends_still_comes_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(markdown, "PIECE_CHARS", 1_000)
    assert [len(piece) for piece in markdown._pieces("x" * 250_000)] == [100_000, 100_000, 50_000]


def test_text_has_paragraphs_and_a_title_that_looks_like_one() -> None:
    parsed = text.parse(b"\xef\xbb\xbfThe Title\r\n\r\nFirst\r\nparagraph.\r\n\r\nSecond.")
    assert parsed.title == "The Title"
    assert blocks(parsed, BlockKind.PROSE) == ["The Title", "First\nparagraph.", "Second."]


@pytest.mark.parametrize("first", ["A sentence.", "这是一句话。", "x" * 121, "two\nlines"])
def test_a_first_paragraph_that_is_no_title_is_not_taken_for_one(first: str) -> None:
    assert text.parse(f"{first}\n\nmore".encode()).title == ""


@pytest.mark.parametrize("data", [b"", b" \n\t\r\n ", b"\xef\xbb\xbf"])
def test_a_text_of_nothing_is_empty(data: bytes) -> None:
    assert reason_of(data).reason == "DOCUMENT_EMPTY"


def test_markdown_of_marks_alone_is_empty() -> None:
    assert reason_of(b"<!-- nothing -->\n\n---\n", "text/markdown").reason == "DOCUMENT_EMPTY"


@pytest.mark.parametrize(
    ("source", "declared", "kind"),
    [
        ("docs/a.md", "", "text/markdown"),
        ("A.MARKDOWN", "", "text/markdown"),
        ("README", "", "text/plain"),
        (".gitignore", "", "text/plain"),
        ("a.py", "", "text/plain"),
        ("a.md", "text/plain; charset=utf-8", "text/plain"),
        ("x", "Text/Markdown", "text/markdown"),
    ],
)
def test_the_kind_is_as_declared_or_told_from_the_ending(source: str, declared: str, kind: str) -> None:
    assert reading.mime_type(source, declared) == kind


@pytest.mark.parametrize("source", ["a.doc", "a.png", "a.nonsense", "a.xlsx"])
def test_a_kind_without_parser_is_refused_by_name(source: str) -> None:
    with pytest.raises(WeftError) as caught:
        reading.mime_type(source, "")
    assert caught.value.reason == "DOCUMENT_UNREADABLE"
    assert caught.value.metadata["supported"] == ", ".join(sorted(reading.PARSERS))


@given(st.binary(max_size=300))
def test_any_bytes_are_parsed_or_refused(data: bytes) -> None:
    for kind in reading.PARSERS:
        try:
            parsed = reading.read(data, kind)
        except WeftError as err:
            assert err.reason in {"DOCUMENT_UNREADABLE", "DOCUMENT_EMPTY"}
        else:
            ends = [0, *(block.end for block in parsed.blocks)]
            assert all(block.start >= end for block, end in zip(parsed.blocks, ends, strict=False))
            assert ends[-1] <= len(parsed.text)
