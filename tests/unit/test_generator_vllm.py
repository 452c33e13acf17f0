"""What `vllm:` does without vLLM: its URL, words to a model, calls of tools, tokens to text. The rest: tests/vllm."""

from __future__ import annotations

import json

import jsonschema
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from mesh.plugins import Url
from services.generator.models import vllm
from services.generator.types import Message, Piece, Request, Resume, Role, ToolCall, ToolOffer
from services.generator.vllm import calls
from services.generator.vllm.prompts import plain
from services.generator.vllm.text import Writing
from weft.errors import Reason, WeftError

TOOL = ToolOffer("clock", "Tells the time.", {"type": "object", "properties": {"zone": {"type": "string"}}})


def test_without_vllm_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(WeftError, match=r"vLLM is not installed here\. .*weft\[vllm\].*docs/generator\.md") as caught:
        vllm.open(Url.parse("vllm:///models/tiny"))
    assert caught.value.reason == Reason.INVALID_FIELD


def test_without_a_chat_template_a_conversation_reads_as_words() -> None:
    call = ToolCall("1", "clock", {"zone": "UTC"})
    messages = [
        Message(Role.SYSTEM, "Be brief."),
        Message(Role.USER, "What time is it?"),
        Message(Role.ASSISTANT, "", (call,)),
        Message(Role.TOOL, "09:00", tool_call_id="1", name="clock"),
    ]
    assert plain(messages).splitlines() == [
        *("system: Be brief.", "", "user: What time is it?", ""),
        *("assistant: [calls clock with {'zone': 'UTC'}]", "", "tool: 09:00", "", "assistant:"),
    ]


@pytest.mark.parametrize(
    ("output", "fits"),
    [
        ({"answer": "Nine."}, True),
        ({"tool_calls": [{"name": "clock", "arguments": {"zone": "UTC"}}]}, True),
        ({"tool_calls": [{"name": "clock", "arguments": {"zone": 1}}]}, False),
        ({"tool_calls": [{"name": "other", "arguments": {}}]}, False),
        ({"tool_calls": []}, False),
        ({"answer": "Nine.", "tool_calls": [{"name": "clock", "arguments": {}}]}, False),
    ],
)
def test_output_is_an_answer_or_calls_of_the_tools_that_were_offered(output: object, fits: bool) -> None:
    assert jsonschema.Draft202012Validator(calls.schema([TOOL], None)).is_valid(output) == fits


def test_calls_have_ids_of_their_own_and_an_answer_is_its_text() -> None:
    asked = {"tool_calls": [{"name": "clock", "arguments": {"zone": zone}} for zone in ("UTC", "CET")]}
    text, wanted = calls.read(json.dumps(asked), "call-7")
    assert text == ""
    assert wanted == (ToolCall("call-7-0", "clock", {"zone": "UTC"}), ToolCall("call-7-1", "clock", {"zone": "CET"}))
    assert calls.read('{"answer":"每天"}', "x") == ("每天", ())
    assert calls.read('{"answer":{"hour":9}}', "x") == ('{"hour": 9}', ())
    assert calls.read(r'{"answer":"half \ud83d"}', "x") == ("half \ufffd", ())
    with pytest.raises(WeftError, match="beyond the range of a double"):
        calls.read('{"tool_calls":[{"name":"clock","arguments":{"zone":1' + "0" * 400 + "}}]}", "x")


def test_of_an_answer_that_was_cut_off_the_text_is_kept_and_of_calls_nothing() -> None:
    whole = json.dumps({"answer": 'He said "每天" \\ and left.'})
    text = json.loads(whole)["answer"]
    for length in range(len('{"answer": "'), len(whole)):
        begun, wanted = calls.read(whole[:length], "x")
        assert text.startswith(begun)
        assert wanted == ()
    assert calls.read(whole[:-2], "x") == (text, ())
    assert calls.read('{"tool_calls": [{"name": "clock", "argu', "x") == ("", ())


@pytest.mark.parametrize("system", [True, False])
def test_the_tools_are_described_in_the_one_message_of_the_system(system: bool) -> None:
    messages = (*([Message(Role.SYSTEM, "Be brief.")] if system else []), Message(Role.USER, "What time is it?"))
    first, *rest = calls.told(Request(messages, tools=(TOOL,)))
    assert first.role is Role.SYSTEM
    assert first.content.startswith("Be brief." if system else "You may call tools.")
    assert "Tells the time." in first.content
    assert [message.role for message in rest] == [Role.USER]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    """Each byte is a token; its id is its place among the signs of a byte-level BPE."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bpe = Tokenizer(models.BPE({sign: number for number, sign in enumerate(alphabet)}, []))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bpe.decoder = decoders.ByteLevel()
    return bpe


def written(tokenizer: Tokenizer, text: str, stop: tuple[str, ...] = (), resume: Resume | None = None) -> list[Piece]:
    """Write a text token by token, from where `resume` left it."""
    ids = tokenizer.encode(text).ids
    writing = Writing(tokenizer, tokenizer.encode("user: Why? assistant:").ids, stop, resume)
    found = [Piece(writing.owed)] if writing.owed else []
    for token_id in ids[len(resume.output_token_ids) if resume else 0 :]:
        if not writing.stopped and (piece := writing.take([token_id], ended=False)) is not None:
            found.append(piece)
    if (piece := writing.rest()) is not None:
        found.append(piece)
    return found


TEXT = "Nine 🦁 每天 — é."


def test_no_piece_cuts_a_character_and_no_token_is_lost(tokenizer: Tokenizer) -> None:
    pieces = written(tokenizer, TEXT)
    assert [piece.text for piece in pieces] == list(TEXT)
    assert [token_id for piece in pieces for token_id in piece.token_ids] == tokenizer.encode(TEXT).ids


@pytest.mark.parametrize("stop", [(), ("天 —",), ("never",), ("🦁 每天 ?", " é")])
def test_a_text_goes_on_from_any_token_and_any_character_as_if_undisturbed(
    tokenizer: Tokenizer, stop: tuple[str, ...]
) -> None:
    ids = tuple(tokenizer.encode(TEXT).ids)
    whole = "".join(piece.text for piece in written(tokenizer, TEXT, stop))
    assert whole == min((TEXT.partition(word)[0] for word in stop), key=len, default=TEXT)
    for tokens in range(len(ids)):
        said = bytes(TEXT.encode()[:tokens]).decode(errors="ignore")
        for chars in range(min(len(said), len(whole)) + 1):
            rest = written(tokenizer, TEXT, stop, Resume((1,), ids[:tokens], chars))
            assert whole[:chars] + "".join(piece.text for piece in rest) == whole


def test_the_token_that_ends_an_answer_is_counted_and_is_no_part_of_it(tokenizer: Tokenizer) -> None:
    writing = Writing(tokenizer, [1], (), None)
    assert writing.take([10, 11], ended=True) == Piece(tokenizer.decode([10]), (10,))
    assert writing.rest() is None
    assert writing.count == 2


def test_more_text_than_the_tokens_have_cannot_be_there_already(tokenizer: Tokenizer) -> None:
    with pytest.raises(WeftError, match=r"resume\.emitted_chars: is 5, but the tokens so far have 1 characters"):
        Writing(tokenizer, [1], (), Resume((1,), (10,), 5))
