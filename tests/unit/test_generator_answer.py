"""How an answer's parts are joined, and that its citations keep to their sentences."""

from __future__ import annotations

from services.generator.text import sentences
from services.generator.text.answer import Draft
from weft.values import Passage

PASSAGE = Passage(name="c/documents/d/chunks/1", text="The harbour has two piers. A tram runs to it.")


def cite_all(draft: Draft) -> None:
    for sentence in sentences.split(PASSAGE.text):
        draft.cite(PASSAGE, sentence)


def test_what_several_tools_found_stands_on_a_line_each() -> None:
    draft = Draft()
    draft.say("17% of 2340 = 397.8")
    draft.say(" From 2026-03-01 to 2026-12-24 it is 298 days. ")
    assert draft.text == "17% of 2340 = 397.8\nFrom 2026-03-01 to 2026-12-24 it is 298 days."


def test_sentences_follow_on_a_line_of_their_own_and_their_citations_fit() -> None:
    draft = Draft()
    draft.say("7 × 6 = 42")
    cite_all(draft)
    assert draft.text == "7 × 6 = 42\nThe harbour has two piers. A tram runs to it."
    assert [draft.text[c.start_char : c.end_char] for c in draft.citations] == [c.quote for c in draft.citations]
    assert [c.quote for c in draft.citations] == ["The harbour has two piers.", "A tram runs to it."]


def test_a_result_of_several_lines_stands_apart() -> None:
    draft = Draft()
    draft.say("one")
    draft.say("two\nthree")
    draft.say("four")
    assert draft.text == "one\n\ntwo\nthree\n\nfour"
