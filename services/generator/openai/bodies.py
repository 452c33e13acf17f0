"""A request of the domain as the API's JSON, and back: the shapes of what comes, checked as they are read.

Everything in an answer may be missing, null or something else: what has the wrong shape is refused as a whole, what
isn't known is passed over.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any, Final

from pydantic import BaseModel, Field

from services.generator.types import Message, Request, Role, Sampling

_SCHEMA_NAME: Final = "answer"
_SEEDS: Final = 1 << 63  # servers keep a seed in 64 bits with a sign

TokenId = Annotated[int, Field(ge=0, lt=1 << 32)]
Count = Annotated[int, Field(ge=0, lt=1 << 31)]


# -- out ----------------------------------------------------------------------------------------------


def chat(request: Request, model: str, limit_field: str) -> dict[str, Any]:
    """Body of `/chat/completions`."""
    body = {
        "model": model,
        "messages": messages(request.messages),
        **answering(request, limit_field),
    }
    if request.tools:
        body["tools"] = tools(request)
    return body


def completion(request: Request, model: str, token_ids: Sequence[int], max_tokens: int) -> dict[str, Any]:
    """Body of vLLM's `/completions` with a prompt of token ids."""
    return {
        "model": model,
        "prompt": list(token_ids),
        **answering(request, "max_tokens"),
        "max_tokens": max_tokens,
        "return_token_ids": True,
    }


def rendering(request: Request, model: str) -> dict[str, Any]:
    """Body of vLLM's `/tokenize`: the messages as the model's chat template writes them."""
    return {"model": model, "messages": messages(request.messages), "add_generation_prompt": True}


def answering(request: Request, limit_field: str) -> dict[str, Any]:
    """What every kind of answer is asked with. What is unset takes the server's default."""
    sampling = request.sampling
    body: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}, **_chosen(sampling)}
    if sampling.max_tokens is not None:
        body[limit_field] = sampling.max_tokens
    if sampling.seed is not None:
        body["seed"] = sampling.seed % _SEEDS
    if sampling.stop:
        body["stop"] = list(sampling.stop)
    if request.json_schema is not None:
        schema = {"name": _SCHEMA_NAME, "schema": dict(request.json_schema), "strict": True}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    return body


def _chosen(sampling: Sampling) -> dict[str, float]:
    names = ("temperature", "top_p", "top_k", "presence_penalty", "frequency_penalty")
    return {name: value for name in names if (value := getattr(sampling, name)) is not None}


def messages(given: Sequence[Message]) -> list[dict[str, Any]]:
    """Messages of a conversation."""
    return [_message(message) for message in given]


def _message(message: Message) -> dict[str, Any]:
    told: dict[str, Any] = {"role": message.role.value, "content": message.content}
    if message.tool_calls:
        told["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": json.dumps(call.arguments, ensure_ascii=False)},
            }
            for call in message.tool_calls
        ]
    if message.role is Role.TOOL:
        told["tool_call_id"] = message.tool_call_id
    return told


def tools(request: Request) -> list[dict[str, Any]]:
    """Tools that the model may ask for."""
    return [
        {
            "type": "function",
            "function": {"name": tool.name, "description": tool.description, "parameters": dict(tool.input_schema)},
        }
        for tool in request.tools
    ]


# -- in -----------------------------------------------------------------------------------------------


class FunctionPart(BaseModel):
    """A piece of a call's function."""

    name: str | None = None
    arguments: str | None = None


class CallPart(BaseModel):
    """A piece of a tool call; those of one call have one index."""

    index: Count | None = None
    id: str | None = None
    function: FunctionPart | None = None


class Delta(BaseModel):
    """A piece of a chat's answer."""

    content: str | None = None
    refusal: str | None = None
    tool_calls: list[CallPart] | None = None


class Choice(BaseModel):
    """A piece of an answer: of a chat (`delta`) or of a completion (`text`)."""

    index: int = 0
    delta: Delta | None = None
    text: str | None = None
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    token_ids: list[TokenId] | None = None


class PromptDetails(BaseModel):
    """Of the prompt's tokens."""

    cached_tokens: Count | None = None


class UsageTold(BaseModel):
    """What the answer took."""

    prompt_tokens: Count = 0
    completion_tokens: Count | None = None
    prompt_tokens_details: PromptDetails | None = None


class Chunk(BaseModel):
    """One event of a stream."""

    choices: list[Choice] | None = None
    usage: UsageTold | None = None
    error: Any = None


class Rendered(BaseModel):
    """What `/tokenize` answers."""

    tokens: list[TokenId]
    max_model_len: Count


class Decoded(BaseModel):
    """What `/detokenize` answers."""

    prompt: str


class ModelTold(BaseModel):
    """A model in a server's list."""

    id: str
    max_model_len: Count | None = None


class ModelList(BaseModel):
    """What `/models` answers."""

    data: list[ModelTold]
