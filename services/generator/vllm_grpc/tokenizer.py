"""The tokenizer that a server gives away: a zip file with tokenizer.json, its configuration and the chat template.

What transformers would make of them, without transformers: `tokenizers` reads the first, the chat template is Jinja, in
its sandbox, with the special tokens and the few names that chat templates expect (`raise_exception`, `tojson`,
`strftime_now`, `{% break %}`, `{% generation %}`). Nothing reaches the disk, and what it may unpack to is bounded.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from jinja2 import nodes
from jinja2.exceptions import TemplateError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

MAX_ZIP_BYTES: Final = 128 << 20
MAX_FILE_BYTES: Final = 256 << 20
_SPECIAL: Final = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


class Unreadable(ValueError):
    """The file is none that can be used, and why."""


class ChatTokenizer:
    """A tokenizer with its chat template; not safe to use from two threads at once."""

    def __init__(self, decoder: Tokenizer, chat_template: str, special: Mapping[str, str]) -> None:
        self.decoder = decoder
        self.chat_template = chat_template
        """Empty where there is none."""
        self._template = _environment().from_string(chat_template) if chat_template else None
        self._special = special

    def apply_chat_template(
        self, messages: Sequence[Mapping[str, Any]], *, tokenize: bool, add_generation_prompt: bool
    ) -> str:
        """Return the text of a conversation.

        Raises:
            TemplateError: what the template doesn't take.
        """
        assert self._template is not None
        assert not tokenize
        return self._template.render(
            messages=messages, tools=None, documents=None, add_generation_prompt=add_generation_prompt, **self._special
        )

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Return a text's ids."""
        ids: list[int] = self.decoder.encode(text, add_special_tokens=add_special_tokens).ids
        return ids

    def get_vocab(self) -> dict[str, int]:
        """Return all tokens."""
        vocabulary: dict[str, int] = self.decoder.get_vocab()
        return vocabulary


def read(packed: bytes, sha256: str) -> ChatTokenizer:
    """Read the zip file. Takes up to seconds for a large vocabulary.

    Raises:
        Unreadable: saying why.
    """
    if hashlib.sha256(packed).hexdigest() != sha256:
        raise Unreadable("its tokenizer came damaged")
    try:
        with zipfile.ZipFile(io.BytesIO(packed)) as archive:
            found = _file(archive, "tokenizer.json")
            if found is None:
                raise Unreadable("it has no tokenizer.json, and no other tokenizer can be used here")
            decoder = Tokenizer.from_str(found)
            configuration = json.loads(_file(archive, "tokenizer_config.json") or "{}")
            template = _template(archive, configuration)
        special = {name: _token(configuration[name]) for name in _SPECIAL if configuration.get(name)}
        return ChatTokenizer(decoder, template, special)
    except (Unreadable, MemoryError):
        raise
    except TemplateError as exc:
        raise Unreadable(f"its chat template can't be read: {exc}") from None
    except Exception as exc:  # of zipfile, zlib, json and of tokenizers, which raises bare Exceptions
        raise Unreadable(f"its tokenizer can't be read: {type(exc).__name__}: {exc}") from None


def _file(archive: zipfile.ZipFile, name: str) -> str | None:
    if name not in archive.namelist():
        return None
    with archive.open(name) as packed:
        content = packed.read(MAX_FILE_BYTES + 1)
    if len(content) > MAX_FILE_BYTES:
        raise Unreadable(f"its {name} has more than {MAX_FILE_BYTES} bytes")
    return content.decode()


def _template(archive: zipfile.ZipFile, configuration: Mapping[str, Any]) -> str:
    template = _file(archive, "chat_template.jinja")
    if template is None:
        template = json.loads(_file(archive, "chat_template.json") or "{}").get("chat_template")
    if template is None:
        template = configuration.get("chat_template") or ""
    if isinstance(template, list):  # several, by name
        template = next((each["template"] for each in template if each["name"] == "default"), "")
    return str(template)


def _token(told: Any) -> str:
    return str(told["content"] if isinstance(told, dict) else told)


class _Generation(Extension):
    """`{% generation %}` marks what the model said, for training; to us it is its content."""

    tags = {"generation"}  # noqa: RUF012 - Jinja's own declaration

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _Generation]
    )
    environment.filters["tojson"] = _tojson
    environment.globals.update(raise_exception=_refuse, strftime_now=lambda form: datetime.now().strftime(form))
    return environment


def _tojson(value: Any, indent: int | None = None, ensure_ascii: bool = False, **_: Any) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent)


def _refuse(message: str) -> None:
    raise TemplateError(message)
