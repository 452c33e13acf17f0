"""Chunks: cut along the structure, whole where it fits, true to their offsets."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from services.retriever.documents.chunking import LEAST_UNITS, MAX_CODE_UNITS, TARGET_UNITS, chunk, units
from services.retriever.documents.sentences import sentence_spans
from services.retriever.parsers import markdown, text
from services.retriever.types import Chunk

SENTENCE = "The bridge over the river was built by the town in the year after the great flood. "
LARGEST = LEAST_UNITS + MAX_CODE_UNITS


def of_markdown(source: str) -> list[Chunk]:
    return chunk(markdown.parse(source.encode()))


def of_text(source: str) -> list[Chunk]:
    return chunk(text.parse(source.encode()))


# Texts with everything that matters to the chunker in them, at every length.
PARTS = st.sampled_from(
    [
        *("# Top\n\n", "## Part\n\n", "#### Deep\n\n", SENTENCE, SENTENCE * 12 + "\n\n", "一" * 700),
        *("这是一句话。" * 60, "```\n" + "x = 1\n" * 20 + "```\n\n", "```\n" + "y" * 3_000 + "\n```\n"),
        *("- item\n", "1. first\n", "\n\n", "word " * 400, "| a | b |\n|---|---|\n| 1 | 2 |\n\n", "> quoted\n\n"),
        *("<b>html</b>\n\n", "\x0b", "🙂 ", "\u0301"),
    ]
)
SOURCES = st.lists(st.one_of(PARTS, st.text(max_size=40)), max_size=14).map("".join)


@given(SOURCES)
def test_every_chunk_is_the_stretch_of_text_that_its_offsets_say(source: str) -> None:
    data = source.encode("utf-8", "replace")
    for parsed in (markdown.parse(data.replace(b"\0", b"")), text.parse(data.replace(b"\0", b""))):
        end = 0
        for number, piece in enumerate(chunk(parsed)):
            assert piece.number == number
            assert parsed.text[piece.start_char : piece.end_char] == piece.text
            assert piece.text == piece.text.strip() != ""
            assert piece.start_char >= end
            assert units(piece.text) <= LARGEST
            # What no chunk holds is white space, or a heading that the section names.
            left_out = [word for word in parsed.text[end : piece.start_char].split() if word.strip("#")]
            assert set(left_out) <= set(" ".join(piece.section).split())
            end = piece.end_char
        assert not parsed.text[end:].strip()


@given(st.text(alphabet=st.sampled_from("aB.!?。！ \n\"')」…Dr3"), max_size=200))
def test_sentences_cover_a_text_without_gap_or_overlap(source: str) -> None:
    spans = sentence_spans(source)
    assert "".join(source[start:end] for start, end in spans) == source


def test_a_sentence_does_not_end_at_abbreviations_initials_or_decimals() -> None:
    source = "Dr. J. Smith paid 3.5 million, i.e. a lot. See No. 7 for more. Was it 4? Yes."
    assert [source[start:end].strip() for start, end in sentence_spans(source)] == [
        "Dr. J. Smith paid 3.5 million, i.e. a lot.",
        "See No. 7 for more.",
        "Was it 4?",
        "Yes.",
    ]


def test_chinese_sentences_end_at_their_own_marks_with_the_quotes_after_them() -> None:
    source = "他说：“你好。”然后走了！真的吗？"
    assert [source[start:end] for start, end in sentence_spans(source)] == ["他说：“你好。”", "然后走了！", "真的吗？"]


def test_a_short_text_is_one_chunk() -> None:
    assert [piece.text for piece in of_text("One line.")] == ["One line."]


def test_a_long_paragraph_is_cut_between_sentences_into_parts_of_about_one_size() -> None:
    pieces = of_text(SENTENCE * 15)
    assert len(pieces) == 2
    assert all(piece.text.endswith("flood.") for piece in pieces)
    assert abs(units(pieces[0].text) - units(pieces[1].text)) <= 2 * len(SENTENCE)


def test_a_chinese_paragraph_counts_for_what_it_says() -> None:
    pieces = of_text("这座桥是在大洪水之后的第二年由镇上的人们建造的。" * 25)
    assert [piece.text.count("。") for piece in pieces] == [8, 9, 8]


def test_a_chunk_carries_the_path_of_its_headings() -> None:
    body = SENTENCE * 5
    pieces = of_markdown(f"# Guide\n\n{body}\n\n## Setup\n\n{body}\n\n### Linux\n\n{body}\n\n## Use\n\n{body}")
    assert [piece.section for piece in pieces] == [
        ("Guide",),
        ("Guide", "Setup"),
        ("Guide", "Setup", "Linux"),
        ("Guide", "Use"),
    ]


def test_a_heading_goes_with_what_it_heads_as_its_section() -> None:
    pieces = of_markdown(f"{SENTENCE * 10}\n\n# Next\n\n{SENTENCE * 10}")
    assert [piece.section for piece in pieces] == [(), ("Next",)]
    assert pieces[1].text.startswith("The bridge")


def test_a_heading_that_is_not_the_whole_chunks_stays_in_its_text() -> None:
    (piece,) = of_markdown("# FAQ\n\n## One?\n\nYes.\n\n## Two?\n\nNo.")
    assert (piece.section, piece.text) == (("FAQ",), "## One?\n\nYes.\n\n## Two?\n\nNo.")


def test_headings_alone_are_a_text_too() -> None:
    (piece,) = of_markdown("# Only\n\n## Headings")
    assert (piece.section, piece.text) == (("Only",), "## Headings")


def test_small_sections_that_stand_side_by_side_share_a_chunk() -> None:
    pieces = of_markdown("# FAQ\n\n## One?\n\nYes.\n\n## Two?\n\nNo.\n\n## Three?\n\nMaybe.")
    assert len(pieces) == 1
    assert pieces[0].section == ("FAQ",)


def test_a_few_words_before_a_section_do_not_hide_its_name() -> None:
    pieces = of_markdown(f"# Guide\n\nHow to begin.\n\n## Setup\n\n{SENTENCE * 8}")
    assert [piece.section for piece in pieces] == [("Guide", "Setup")]


def test_a_small_section_does_not_run_over_into_another_chapter() -> None:
    pieces = of_markdown(f"# Book\n\n## One\n\n{SENTENCE * 8}\n\n### Deep\n\nShort.\n\n## Two\n\nOther.")
    assert [piece.text for piece in pieces[1:]] == ["Short.", "Other."]


def test_code_is_kept_whole_where_it_fits() -> None:
    code = "\n".join(["```python", *(f"line_{number} = {number}" for number in range(100)), "```"])
    pieces = of_markdown(f"{SENTENCE * 3}\n\n{code}\n\n{SENTENCE * 9}")
    assert code in [piece.text for piece in pieces]


def test_code_that_does_not_fit_is_cut_between_lines() -> None:
    lines = [f"line_{number} = {number}" for number in range(400)]
    pieces = of_markdown("```\n" + "\n".join(lines) + "\n```")
    assert len(pieces) > 1
    assert all(piece.text.startswith("```\n") and piece.text.endswith("\n```") for piece in pieces)
    assert [line for piece in pieces for line in piece.text.split("\n")[1:-1]] == lines


def test_a_text_without_any_place_to_cut_is_still_cut() -> None:
    pieces = of_text("x" * 5_000)
    assert "".join(piece.text for piece in pieces) == "x" * 5_000
    assert all(units(piece.text) <= TARGET_UNITS for piece in pieces)


def test_a_sentence_without_end_is_shared_out_between_words() -> None:
    pieces = of_text("word " * 200)
    assert [len(piece.text.split()) for piece in pieces] == [100, 100]
