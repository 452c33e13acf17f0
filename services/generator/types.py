"""What the generator's domain speaks of. Plain values: no protobuf, no gRPC."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, TypeAlias

from weft.values import Citation, Degradation, FinishReason, Passage, Usage

MAX_OUTPUT_TOKENS: Final = 1_048_576  # what a request may ask for; a model's own limit may be lower


class Role(StrEnum):
    """Author of a message."""

    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"
    TOOL = "tool"


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A model's wish to have a tool run."""

    id: str
    name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Message:
    """One entry of a conversation."""

    role: Role
    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str = ""
    name: str = ""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are chosen. None takes the model's default."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    max_tokens: int | None = None
    """Of the whole answer: a resumed part counts."""
    stop: tuple[str, ...] = ()
    """The answer ends before the first of these, which is not part of it."""
    seed: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None


@dataclass(frozen=True, slots=True)
class Resume:
    """An interrupted answer, to be continued at its next token."""

    prompt_token_ids: tuple[int, ...]
    output_token_ids: tuple[int, ...]
    emitted_chars: int
    emitted_text: str = ""
    """The text itself, where the caller tells it."""


@dataclass(frozen=True, slots=True)
class ToolOffer:
    """A tool that the model may ask for."""

    name: str
    description: str
    input_schema: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class TemplateRef:
    """A stored prompt template. An empty version means the operator's current one."""

    name: str
    version: str = ""


@dataclass(frozen=True, slots=True)
class Request:
    """One answer to be made."""

    messages: tuple[Message, ...]
    passages: tuple[Passage, ...] = ()
    model: str = ""
    """Empty for the operator's default."""
    tools: tuple[ToolOffer, ...] = ()
    sampling: Sampling = field(default_factory=Sampling)
    json_schema: Mapping[str, Any] | None = None
    """What the whole text must fit; None for free text."""
    resume: Resume | None = None
    include_token_ids: bool = False
    priority: int = 0
    grounded_only: bool = True
    """Whether to abstain where the passages hold no answer."""
    query: str = ""
    """The user's last message as it was searched for, completed from the conversation; empty where it stands alone."""
    tenant: str = "default"
    bucket: int = 0
    """0 to 99, on which side of a split by weight it is: the session's where the caller sent it, else of its own."""
    template: TemplateRef | None = None
    """Before it is rendered what was asked for, then what was used."""
    allow_cached: bool = False
    """Whether an exact answer may be taken from the cache, and this one kept there."""
    piece_interval_s: float = 0.0
    """Pieces that come closer together are joined before they are sent: a model may spare itself to part them."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a model can do; fixed for its lifetime."""

    backend: str
    """Scheme of its URL."""
    version: str = ""
    context_tokens: int = 0
    """Prompt and answer together; 0 where there is no limit."""
    can_resume: bool = False
    can_repeat: bool = False
    """Whether the same request always gets the same text, from any replica."""
    json_schema: bool = False
    """Whether it can hold its output to a schema."""
    reads_passages: bool = False
    """Whether it takes messages and passages as they come. Others are given messages made by a prompt template, with
    the passages in them, and mark in their text what rests on which."""


@dataclass(frozen=True, slots=True)
class ModelLoad:
    """How busy a model is right now."""

    running: int = 0
    """Answers being made."""
    waiting: int = 0
    """Answers that wait for their turn, before or inside of the backend."""
    kv_cache: float | None = None
    """Used share of the KV cache, 0 to 1; None where there is none or it is unknown."""
    gpu_memory: float | None = None
    """Used share of the GPU's memory, 0 to 1; None without a GPU."""


# What a model yields: a Prompt first where the token ids are known, pieces, exactly one End.


@dataclass(frozen=True, slots=True)
class Prompt:
    """The prompt, as the model reads it."""

    token_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Piece:
    """Text to append, and its tokens."""

    text: str
    token_ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class End:
    """The answer is whole."""

    reason: FinishReason
    usage: Usage
    citations: tuple[Citation, ...] = ()
    """By start."""
    tool_calls: tuple[ToolCall, ...] = ()
    cached: bool = False
    """Whether it was kept from an earlier time."""


ModelEvent: TypeAlias = Prompt | Piece | End


# What the generator yields: Started, pieces, exactly one Finished.


@dataclass(frozen=True, slots=True)
class Started:
    """A model has begun to answer."""

    model: str
    capabilities: Capabilities
    prompt_token_ids: tuple[int, ...] = ()
    template: str = ""
    """Name of the prompt template that was used; empty where the model takes messages and passages as they come."""
    template_version: str = ""


@dataclass(frozen=True, slots=True)
class Finished:
    """The answer is whole."""

    end: End
    degraded: tuple[Degradation, ...] = ()


Event: TypeAlias = Started | Piece | Finished


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A model that can be asked for."""

    name: str
    capabilities: Capabilities
    default: bool
