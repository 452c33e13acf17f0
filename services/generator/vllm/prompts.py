"""Messages to token ids: by the chat template that came with the model's tokenizer, or in plain words without one.

    system: Answer briefly.

    user: What is Weft?

    assistant:

is how a conversation reads to a model without a chat template. Passages are in the messages already, fenced as data
(`templates/`). A template may refuse what it doesn't know (a second system message, a tool's result): INVALID_FIELD.

Rendering and tokenising take milliseconds for long prompts and go to a thread of their own, one at a time: a tokenizer
is not safe to share. What can't fit the context, however it is tokenised, is refused before.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from jinja2 import TemplateError

from mesh.validation import shorten
from services.generator.types import Message, Role
from weft.errors import Reason, WeftError, error


class Prompts:
    """Owns a tokenizer and the thread that uses it."""

    def __init__(self, tokenizer: Any, context_tokens: int) -> None:
        """Take a tokenizer of transformers that nobody else uses."""
        self._tokenizer, self._context_tokens = tokenizer, context_tokens
        self._longest_chars = max(map(len, tokenizer.get_vocab()))
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="vllm-prompts")

    async def token_ids(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """Return the prompt.

        Raises:
            WeftError: CONTEXT_TOO_LONG for what can't fit, INVALID_FIELD for what the chat template refuses.
        """
        least = sum(len(message.content) for message in messages) // self._longest_chars
        if least >= self._context_tokens:
            raise too_long(least, None, self._context_tokens, "at least ")
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._render, messages)

    def close(self) -> None:
        """Let go of the thread."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _render(self, messages: Sequence[Message]) -> tuple[int, ...]:
        if not self._tokenizer.chat_template:
            return tuple(self._tokenizer.encode(plain(messages)))
        try:
            text = self._tokenizer.apply_chat_template(
                [_as_dict(message) for message in messages], tokenize=False, add_generation_prompt=True
            )
        except (TemplateError, TypeError, ValueError, KeyError) as exc:
            problem = f"the model's chat template does not take them: {shorten(str(exc), 200)}"
            raise error(Reason.INVALID_FIELD, f"messages: {problem}", field="messages") from None
        return tuple(self._tokenizer.encode(text, add_special_tokens=False))


def plain(messages: Sequence[Message]) -> str:
    """How a conversation reads to a model without a chat template."""
    return "\n\n".join([*(f"{message.role}: {_said(message)}" for message in messages), f"{Role.ASSISTANT}:"])


def _said(message: Message) -> str:
    calls = "\n".join(f"[calls {call.name} with {dict(call.arguments)}]" for call in message.tool_calls)
    return "\n".join(filter(None, (message.content, calls)))


def _as_dict(message: Message) -> dict[str, Any]:
    """A message as chat templates know it."""
    told: dict[str, Any] = {"role": str(message.role), "content": message.content}
    if message.tool_calls:
        told["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": dict(call.arguments)}}
            for call in message.tool_calls
        ]
    if message.role is Role.TOOL:
        told |= {"tool_call_id": message.tool_call_id, "name": message.name}
    return told


def too_long(prompt_tokens: int, max_tokens: int | None, context_tokens: int, least: str = "") -> WeftError:
    """What is raised where prompt and answer don't fit the context."""
    return error(
        Reason.CONTEXT_TOO_LONG,
        f"the prompt has {least}{prompt_tokens} tokens and the answer may have {max_tokens or 1}; "
        f"the model takes {context_tokens} together. Send fewer passages or lower max_tokens",
        prompt_tokens=prompt_tokens,
        max_tokens=max_tokens or 0,
        context_tokens=context_tokens,
    )
