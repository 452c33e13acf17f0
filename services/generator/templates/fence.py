"""Fences passages: data between tags that nothing inside of them can close.

    <source_1f0c9a2b id="1" title="Guide" section="Setup">
    …the passage, word for word…
    </source_1f0c9a2b>

The tags' name ends in a mark that occurs in none of the texts: it is the beginning of their hash, hashed on until
none of them has it. So the same passages always make the same prompt, which caches rely on, and whoever writes a
document can't put a closing tag into it.

Titles and sections stand in quotes on one line, escaped and cut. Inside a passage one thing is changed: the control
tokens by which chat models tell turns apart (`<|im_end|>`, `[/INST]`…) get a blank behind their first sign. Many
tokenizers read them in any text, and a document must not end the user's turn.
"""

from __future__ import annotations

import hashlib
import html
import re
from collections.abc import Sequence
from typing import Final

from weft.values import Passage

MARK_CHARS: Final = 8
MAX_ATTRIBUTE_CHARS: Final = 200
# Llama 3, Qwen, Phi…: <|x|>; DeepSeek: <｜x｜>; Gemma: <x_of_turn>; Llama 2 and Mistral: <s>, [INST], <<SYS>>.
_CONTROL: Final = re.compile(
    r"<(?=\|[^|<>\s]{1,64}\|>"
    r"|｜[^｜<>\s]{1,64}｜>"
    r"|/?(?:s|bos|eos|unk|pad|start_of_turn|end_of_turn|tool_call)>"
    r"|</?SYS>>)"
    r"|\[(?=/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|TOOL_CONTENT|CALL_ID|ARGS|THINK|IMG)\])"
)


def fenced(passages: Sequence[Passage], beside: str = "") -> str:
    """Return the passages as numbered sources, best first; empty where there are none.

    `beside` is what else the caller said: the fence's mark doesn't occur there either.
    """
    if not passages:
        return ""
    texts = [text for passage in passages for text in (disarmed(passage.text), passage.title, passage.section)]
    mark = _mark([*texts, beside])
    return "\n\n".join(
        f"<source_{mark} {_attributes(number, passage)}>\n{texts[3 * (number - 1)]}\n</source_{mark}>"
        for number, passage in enumerate(passages, 1)
    )


def disarmed(text: str) -> str:
    """Return the text with no control token of a chat model in it."""
    if "<" not in text and "[" not in text:
        return text
    return _CONTROL.sub(r"\g<0> ", text)


def _mark(texts: Sequence[str]) -> str:
    digest = hashlib.sha256()
    for text in texts:
        data = text.encode("utf-8", "surrogatepass")
        digest.update(f"{len(data)}:".encode())
        digest.update(data)
    while any((mark := digest.hexdigest()[:MARK_CHARS]) in text for text in texts):
        digest.update(b"again")
    return mark


def _attributes(number: int, passage: Passage) -> str:
    found = [f'id="{number}"']
    found += [
        f'{name}="{html.escape(disarmed(" ".join(value.split()))[:MAX_ATTRIBUTE_CHARS])}"'
        for name, value in (("title", passage.title), ("section", passage.section))
        if value.strip()
    ]
    if passage.page:
        found.append(f'page="{passage.page}"')
    return " ".join(found)
