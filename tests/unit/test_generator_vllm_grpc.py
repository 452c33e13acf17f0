"""vllm+grpc://: a server that fails, its load, and a tokenizer that comes as a stranger's zip file."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, suppress

import grpc
import pytest
from jinja2 import TemplateError

from mesh import deadline
from mesh.deadline import Deadline
from mesh.plugins import Url
from services.generator.models import vllm_grpc
from services.generator.types import Message, ModelEvent, Piece, Request, Role, Sampling
from services.generator.vllm_grpc import tokenizer
from services.generator.vllm_grpc.tokenizer import ChatTokenizer, Unreadable
from tests.support.vllm_grpc_server import VllmGrpcServer, packed, tokenizer_files, vllm_grpc_server
from weft.errors import Reason, WeftError

TEXT = "Nine o'clock 🦁"
WANTED = Request((Message(Role.USER, "When?"),))


@pytest.fixture
def server() -> Iterator[VllmGrpcServer]:
    with vllm_grpc_server(TEXT) as served:
        yield served


@pytest.fixture
async def model(server: VllmGrpcServer) -> AsyncIterator[vllm_grpc.VllmGrpc]:
    opened = vllm_grpc.open(Url.parse(server.url()))
    yield opened
    await opened.close()


async def answer(model: vllm_grpc.VllmGrpc, request: Request = WANTED) -> list[ModelEvent]:
    async with aclosing(model.generate(request)) as events:
        return [event async for event in events]


async def refusal(model: vllm_grpc.VllmGrpc, request: Request = WANTED) -> WeftError:
    with pytest.raises(WeftError) as caught:
        await answer(model, request)
    return caught.value


# -- asking ----------------------------------------------------------------------------------------------


async def test_a_request_is_token_ids_by_the_servers_chat_template_and_sampling_by_its_model(
    server: VllmGrpcServer, model: vllm_grpc.VllmGrpc
) -> None:
    server.sampling = json.dumps({"temperature": 0.5, "top_k": 20, "max_tokens": 5, "unknown": [1]})
    await model.start()
    assert (model.capabilities.version, model.capabilities.context_tokens) == ("scripted", 100_000)
    sampling = Sampling(top_p=0.25, seed=2**40 + 3, stop=("zzz",), max_tokens=64)
    await answer(model, Request(WANTED.messages, sampling=sampling))
    (asked,) = server.requests
    assert bytes(asked.tokenized.input_ids) == b"user: When?\n>"
    told = asked.sampling_params
    assert (told.temperature, told.top_p, told.top_k, told.seed, told.max_tokens) == (0.5, 0.25, 20, 3, 64)
    assert asked.stream


async def test_what_nobody_says_is_greedy(server: VllmGrpcServer, model: vllm_grpc.VllmGrpc) -> None:
    await answer(model)
    assert server.requests[0].sampling_params.HasField("temperature")
    assert server.requests[0].sampling_params.temperature == 0


async def test_messages_that_the_chat_template_refuses_are_the_callers(model: vllm_grpc.VllmGrpc) -> None:
    err = await refusal(model, Request((Message(Role.TOOL, "x", tool_call_id="1"),)))
    assert (err.reason, err.field) == (Reason.INVALID_FIELD, "messages")
    assert "no tools here" in err.message


async def test_a_server_that_comes_later_answers_then() -> None:
    with vllm_grpc_server(TEXT) as first:
        port = first.port
    opened = vllm_grpc.open(Url.parse(f"vllm+grpc://127.0.0.1:{port}"))
    await opened.start()
    assert (await refusal(opened)).reason == Reason.MODEL_UNAVAILABLE
    with vllm_grpc_server(TEXT, port):
        events = []
        while not events:
            with suppress(WeftError):  # gRPC waits a little before it dials again
                events = await answer(opened)
    await opened.close()


async def test_all_who_ask_a_server_that_hangs_are_refused_in_their_own_time() -> None:
    async with await asyncio.start_server(lambda *_: asyncio.sleep(60), "127.0.0.1", 0) as hanging:
        port = hanging.sockets[0].getsockname()[1]
        opened = vllm_grpc.open(Url.parse(f"vllm+grpc://127.0.0.1:{port}?first_token_timeout_s=0.4"))
        began_s = time.monotonic()
        refused = await asyncio.gather(*(refusal(opened) for _ in range(40)))
        assert time.monotonic() - began_s < 2  # one after the other they took 6
        assert {err.reason for err in refused} == {Reason.MODEL_UNAVAILABLE}
        await opened.close()


async def test_the_servers_load_is_told_whoever_makes_it(server: VllmGrpcServer, model: vllm_grpc.VllmGrpc) -> None:
    server.delay_s = 60.0
    asking = asyncio.create_task(answer(model))
    while not server.running:  # noqa: ASYNC110 - it is the server's own thread that counts
        await asyncio.sleep(0.005)
    await model.start()
    while model.load().running != 1:  # noqa: ASYNC110
        await asyncio.sleep(0.005)
    assert (model.load().waiting, model.load().kv_cache) == (7, 0.25)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("vllm+grpc://", "is not vllm+grpc://"),
        ("vllm+grpc://host/v1", "is not vllm+grpc://"),
        ("vllm+grpc://me:secret@host", "is not vllm+grpc://"),
        ("vllm+grpc://host?model=x", "'model' is no parameter"),
        ("vllm+grpc://host?tls=yes", "allowed is no"),
        ("vllm+grpc://host?timeout_s=-1", "above 0"),
    ],
)
def test_a_url_that_says_too_little_or_too_much_is_refused(url: str, says: str) -> None:
    with pytest.raises(WeftError) as caught:
        vllm_grpc.open(Url.parse(url))
    assert caught.value.reason == Reason.INVALID_FIELD
    assert says in caught.value.message
    assert "secret" not in caught.value.message


# -- failing ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "reason", "tries"),
    [
        (grpc.StatusCode.UNAVAILABLE, Reason.MODEL_UNAVAILABLE, 3),
        (grpc.StatusCode.INTERNAL, Reason.MODEL_UNAVAILABLE, 1),
        (grpc.StatusCode.UNIMPLEMENTED, Reason.MODEL_UNAVAILABLE, 1),
        (grpc.StatusCode.INVALID_ARGUMENT, Reason.INVALID_FIELD, 1),
    ],
)
async def test_a_failure_before_the_first_token_is_told_and_tried_again_where_that_may_help(
    fault: grpc.StatusCode, reason: Reason, tries: int, server: VllmGrpcServer, model: vllm_grpc.VllmGrpc
) -> None:
    server.fault = fault
    assert (await refusal(model)).reason == reason
    assert len(server.requests) == tries


async def test_a_schema_that_the_server_refuses_is_told_as_such(
    server: VllmGrpcServer, model: vllm_grpc.VllmGrpc
) -> None:
    server.fault = grpc.StatusCode.INVALID_ARGUMENT
    err = await refusal(model, Request(WANTED.messages, json_schema={"type": "object", "minProperties": 1}))
    assert (err.reason, err.field) == (Reason.SCHEMA_INVALID, "response_format.json_schema")
    assert json.loads(server.requests[0].sampling_params.json_schema) == {"type": "object", "minProperties": 1}


@pytest.mark.parametrize("fault", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL])
async def test_one_after_it_is_not_tried_again(
    fault: grpc.StatusCode, server: VllmGrpcServer, model: vllm_grpc.VllmGrpc
) -> None:
    server.fault, server.fault_after = fault, 2
    given: list[ModelEvent] = []
    with pytest.raises(WeftError) as caught:  # noqa: PT012 - what came before it counts
        async for event in model.generate(WANTED):
            given.append(event)
    assert caught.value.reason == Reason.MODEL_UNAVAILABLE
    assert "".join(event.text for event in given if isinstance(event, Piece)) == TEXT[:4]
    assert len(server.requests) == 1


@pytest.mark.parametrize("finish", ["abort", "error", "nonsense"])
async def test_an_answer_that_the_engine_gave_up_is_not_taken_for_a_whole_one(
    finish: str, server: VllmGrpcServer, model: vllm_grpc.VllmGrpc
) -> None:
    server.finish = finish
    assert (await refusal(model)).reason == Reason.MODEL_UNAVAILABLE


async def test_a_server_that_says_nothing_is_given_up(server: VllmGrpcServer) -> None:
    opened = vllm_grpc.open(Url.parse(server.url("?first_token_timeout_s=0.3")))
    await opened.start()
    server.delay_s = 60.0
    err = await refusal(opened)
    assert (err.reason, "said nothing for 0.3 s" in err.message) == (Reason.MODEL_UNAVAILABLE, True)
    await opened.close()


async def test_the_callers_deadline_rules_and_is_its_own(server: VllmGrpcServer, model: vllm_grpc.VllmGrpc) -> None:
    await model.start()
    server.delay_s = 60.0
    with deadline.bind(Deadline.after(0.3)):
        assert (await refusal(model)).reason == Reason.DEADLINE_EXCEEDED


async def test_whoever_leaves_stops_the_servers_work(server: VllmGrpcServer, model: vllm_grpc.VllmGrpc) -> None:
    server.delay_s = 0.01
    server.text = "x" * 2_000
    async with aclosing(model.generate(WANTED)) as events:
        while not isinstance(await anext(events), Piece):
            pass
    while server.running:  # noqa: ASYNC110
        await asyncio.sleep(0.005)


async def test_a_tokenizer_that_came_damaged_is_not_used(server: VllmGrpcServer, model: vllm_grpc.VllmGrpc) -> None:
    server.sha256 = "0" * 64
    err = await refusal(model)
    assert (err.reason, "damaged" in err.message) == (Reason.MODEL_UNAVAILABLE, True)
    server.sha256 = None
    assert await answer(model)


# -- the tokenizer ---------------------------------------------------------------------------------------


def read(content: bytes) -> ChatTokenizer:
    return tokenizer.read(content, hashlib.sha256(content).hexdigest())


def rendered(template: str, **more: str) -> str:
    made = read(packed(tokenizer_files(**{"chat_template.jinja": template}, **more)))
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]
    return made.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)


def test_chat_templates_have_what_they_expect() -> None:
    assert rendered("{% for m in messages %}{{ m.content }}{% break %}{% endfor %}") == "Hi"
    assert rendered("{% generation %}{{ messages[1].content }}{% endgeneration %}") == "Ho"
    assert rendered("{{ messages[0] | tojson }}") == '{"role": "user", "content": "Hi"}'
    assert rendered("{{ eos_token }}{{ tools }}{% if add_generation_prompt %}>{% endif %}") == "<|end|>None>"
    assert rendered("{{ strftime_now('%Y') | length }}") == "4"
    with pytest.raises(TemplateError, match="not so"):
        rendered("{{ raise_exception('not so') }}")


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "{{ messages.append(1) }}",
        "{% for x in range(10 ** 9) %}{% endfor %}",
    ],
)
def test_chat_templates_stay_in_their_sandbox(template: str) -> None:
    with pytest.raises((TemplateError, OverflowError)):
        rendered(template)


def test_a_template_is_found_wherever_it_is() -> None:
    named = [{"name": "tool_use", "template": "no"}, {"name": "default", "template": "yes"}]
    files = tokenizer_files()
    assert read(packed({**files, "chat_template.json": '{"chat_template": "there"}'})).chat_template == "there"
    files["tokenizer_config.json"] = json.dumps({"chat_template": named})
    assert read(packed(files)).chat_template == "yes"
    del files["tokenizer_config.json"]
    assert read(packed(files)).chat_template == ""


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "can't be read"),
        (b"no zip file", "can't be read"),
        (packed({}), "no tokenizer.json"),
        (packed({"tokenizer.json": "{}"}), "can't be read"),
        (packed({"tokenizer.json": "[" * 100_000}), "can't be read"),
        (packed({**tokenizer_files(), "tokenizer_config.json": "[1]"}), "can't be read"),
        (packed({**tokenizer_files(), "chat_template.jinja": "{% if %}"}), "can't be read"),
    ],
    ids=["nothing", "no zip", "empty", "no tokenizer", "deep", "no object", "no template"],
)
def test_what_is_no_tokenizer_is_told(content: bytes, says: str) -> None:
    with pytest.raises(Unreadable, match=says):
        read(content)


def test_a_file_that_unpacks_to_too_much_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizer, "MAX_FILE_BYTES", 1_000_000)
    bomb = packed({"tokenizer.json": "[" + " " * 5_000_000 + "]"})
    assert len(bomb) < 10_000
    with pytest.raises(Unreadable, match="more than 1000000 bytes"):
        read(bomb)
