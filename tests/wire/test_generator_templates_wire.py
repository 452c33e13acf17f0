"""Prompt templates across the wire: what was used is told, who asks keeps his side, answers come with citations."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import grpc
import pytest

from mesh.settings import load
from services.generator.settings import Settings
from services.generator.templates.library import open_templates
from tests.support.generator import House, ask, house
from weft import names
from weft.common.v1 import passage_pb2
from weft.errors import Reason, WeftError, from_rpc_error
from weft.generator.v1 import generator_pb2 as pb

PASSAGES = [
    passage_pb2.Passage(name=f"collections/c/documents/d/chunks/{n}", text=f"Text {n}.", title=f"T{n}") for n in (1, 2)
]
CHAT = "scripted:?chat=true&text=Sessions%20expire%20[2].%20They%20renew."
TEMPLATE = """---
name: default
version: "{}"
variables: [sources, question]
---
user:
{{{{ sources }}}}
{{{{ question }}}}
"""


def asking(**options: Any) -> pb.GenerateRequest:
    return pb.GenerateRequest(messages=[pb.Message(role=pb.ROLE_USER, content="When?")], passages=PASSAGES, **options)


async def version(h: House, *, bucket: int | None = None, request_id: str = "") -> str:
    metadata = [(names.METADATA_REQUEST_ID, request_id)] if request_id else []
    metadata += [(names.METADATA_BUCKET, str(bucket))] if bucket is not None else []
    async for message in h.stub.Generate(asking(), timeout=10, metadata=metadata):
        if message.HasField("started"):
            return str(message.started.template_version)
    raise AssertionError("no answer")


def spans_of(h: House) -> list[Any]:
    return [span for span in h.spans.get_finished_spans() if names.GENAI_OPERATION in (span.attributes or {})]


async def test_the_template_is_in_the_reply_and_on_the_span() -> None:
    async with house(m=CHAT) as h:
        answer = await ask(h, asking())
    assert answer.started.template_version == "1"
    (span,) = spans_of(h)
    assert (span.attributes[names.GENAI_PROMPT_NAME], span.attributes[names.GENAI_PROMPT_VERSION]) == ("default", "1")


async def test_a_model_that_reads_passages_itself_is_given_no_template() -> None:
    async with house(m="extractive:") as h:
        answer = await ask(h, asking())
    assert answer.started.template_version == ""
    assert names.GENAI_PROMPT_NAME not in spans_of(h)[0].attributes


async def test_a_prompt_counts_the_tokens_that_the_template_adds() -> None:
    async with house(m=CHAT) as h:
        default = await ask(h, asking())
        plain = await ask(h, asking(template=pb.TemplateRef(name="plain")))
    assert default.finished.usage.input_tokens > plain.finished.usage.input_tokens + 50


async def test_marks_become_citations_and_stay_in_the_text() -> None:
    async with house(m=CHAT) as h:
        answer = await ask(h, asking())
    assert answer.text == "Sessions expire [2]. They renew."
    (citation,) = answer.finished.citations
    assert (citation.passage, citation.title) == (PASSAGES[1].name, "T2")
    assert answer.text[citation.start_char : citation.end_char] == "Sessions expire"


async def test_a_chat_model_that_finds_no_answer_abstains() -> None:
    async with house(m="scripted:?chat=true&text=The%20documents%20hold%20no%20answer%20to%20this%20question.") as h:
        answer = await ask(h, asking())
        free = await ask(h, asking(grounded_only=False))
    assert answer.finished.reason == pb.FINISH_REASON_ABSTAINED
    assert free.finished.reason == pb.FINISH_REASON_STOP


async def test_an_unknown_template_is_not_found_whatever_the_model() -> None:
    for url in (CHAT, "extractive:"):
        async with house(m=url) as h:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await ask(h, asking(template=pb.TemplateRef(name="default", version="9")))
        err = from_rpc_error(caught.value)
        assert (err.reason, err.code) == (Reason.TEMPLATE_NOT_FOUND, grpc.StatusCode.NOT_FOUND)
        assert err.metadata["templates"] == "default 1, plain 1"


async def test_a_split_keeps_to_the_sessions_bucket_and_else_to_the_request(tmp_path: Path) -> None:
    (tmp_path / "default.jinja").write_text(TEMPLATE.format(2), encoding="utf-8")
    async with house(open_templates(str(tmp_path), {"default": {"1": 80, "2": 20}}), m="scripted:?chat=true") as h:
        by_bucket = [await version(h, bucket=bucket) for bucket in range(0, 100, 2)]
        assert Counter(by_bucket) == {"1": 40, "2": 10}
        assert by_bucket[:10] == [await version(h, bucket=bucket) for bucket in range(0, 20, 2)]
        by_request = [await version(h, request_id=f"request-{n}") for n in range(60)]
        assert set(by_request) == {"1", "2"}
        assert by_request[:10] == [await version(h, request_id=f"request-{n}") for n in range(10)]


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("WEFT_GENERATOR__TEMPLATES", "/nowhere/at/all", "/nowhere/at/all is no directory"),
        ("WEFT_GENERATOR__TEMPLATE_WEIGHTS", '{"default": {"1": 90}}', "are not 0 to 100, in all 100"),
        ("WEFT_GENERATOR__TEMPLATE_WEIGHTS", '{"default": {"1": 110, "2": -10}}', "are not 0 to 100, in all 100"),
        ("WEFT_GENERATOR__TEMPLATE_WEIGHTS", '{"other": {"1": 100}}', "there is no template 'other'"),
        ("WEFT_GENERATOR__TEMPLATE_WEIGHTS", "default=1", 'an example is {"default": {"1": 90, "2": 10}}'),
    ],
)
def test_what_cannot_be_used_is_refused_before_the_start(
    name: str, value: str, problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(WeftError) as caught:
        load(Settings)
    assert name in caught.value.message
    assert problem in caught.value.message


def test_a_file_that_is_wrong_is_named_with_its_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.jinja").write_text(TEMPLATE.format(2) + "{% endif %}\n", encoding="utf-8")
    monkeypatch.setenv("WEFT_GENERATOR__TEMPLATES", str(tmp_path))
    with pytest.raises(WeftError, match=r"mine\.jinja, line 9: is no Jinja"):
        load(Settings)
