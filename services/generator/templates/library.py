"""All templates of a process: picks a version for a request, and renders it.

    request names          used is
    nothing                `default`, its current version
    a name                 that, its current version
    a name and a version   exactly that; TEMPLATE_NOT_FOUND lists what there is

The current version is the newest (2 < 10), unless the operator's weights say otherwise: `{"default": {"1": 90,
"2": 10}}` splits the requests that name no version. A request stays on its side: `request.bucket` decides, 0 to 99,
which is the session's where the caller sent it. Buckets are shuffled by the template's name first: route weights split
by the same number, and a canary of a service must not be a canary of its prompts, too.

Rendered, a request has one system message (the template's words, then those of the caller's own), the conversation as
it was, the user's last message rendered with the passages in it, and no passages any more.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from jinja2 import Template as Compiled

from services.generator.templates.fence import disarmed, fenced
from services.generator.templates.file import SUFFIX, Template, read, wrong
from services.generator.text.abstention import abstention
from services.generator.types import Message, Request, Role, TemplateRef
from weft.errors import Reason, error

BUILT_IN: Final = Path(__file__).parent / "builtin"
DEFAULT: Final = "default"
BUCKETS: Final = 100
_STRIDE: Final = 37  # coprime to BUCKETS

Weights = Mapping[str, Mapping[str, int]]


class Templates:
    """Every version of every template."""

    def __init__(self, templates: Iterable[Template], weights: Weights | None = None) -> None:
        """Take the templates and the operator's weights.

        Raises:
            WeftError: INVALID_FIELD for two of one name and version, and for weights of what isn't there.
        """
        self._by_name: dict[str, dict[str, Template]] = {}
        for template in templates:
            versions = self._by_name.setdefault(template.name, {})
            if template.version in versions:
                other = versions[template.version].origin
                raise wrong(
                    template.origin, 1, f"{_title(template)} is there already, in {other}; count its version up"
                )
            versions[template.version] = template
        self._sides = {name: self._current(name, (weights or {}).get(name)) for name in self._by_name}
        for name in weights or {}:
            if name not in self._by_name:
                raise _bad_weights(f"there is no template {name!r}; there are: {self._listed()}")

    def choose(self, request: Request) -> Template:
        """Pick the version to use.

        Raises:
            WeftError: TEMPLATE_NOT_FOUND.
        """
        wanted = request.template or TemplateRef(DEFAULT)
        name = wanted.name or DEFAULT
        versions = self._by_name.get(name, {})
        if wanted.version in versions:
            return versions[wanted.version]
        if not versions or wanted.version:
            asked = f"{name!r}, version {wanted.version!r}" if wanted.version else repr(name)
            raise error(
                Reason.TEMPLATE_NOT_FOUND,
                f"template: there is no prompt template {asked}; there are: {self._listed()}. Leave the version empty "
                "for the current one, and `template` unset for the default",
                field="template",
                template=name,
                version=wanted.version,
                templates=self._listed(),
            )
        sides = self._sides[name]
        return sides[(request.bucket * _STRIDE + zlib.crc32(name.encode())) % BUCKETS * len(sides) // BUCKETS]

    def _current(self, name: str, weights: Mapping[str, int] | None) -> list[Template]:
        """The versions that a request without one may get, each as often as its weight says."""
        versions = self._by_name[name]
        if weights is None:
            return [versions[max(versions, key=_newness)]]
        for version in weights:
            if version not in versions:
                raise _bad_weights(f"template {name!r} has no version {version!r}; there are: {self._listed()}")
        if sum(weights.values()) != BUCKETS:
            raise _bad_weights(f"the weights of template {name!r} add up to {sum(weights.values())}, not to {BUCKETS}")
        return [versions[version] for version, weight in weights.items() for _ in range(weight)]

    def _listed(self) -> str:
        return ", ".join(_title(template) for versions in self._by_name.values() for template in versions.values())


def open_templates(directory: str = "", weights: Weights | None = None) -> Templates:
    """Read the built-in templates and those of the operator's directory.

    Raises:
        WeftError: INVALID_FIELD naming the file and line, or the setting.
    """
    paths = sorted(BUILT_IN.glob(f"*{SUFFIX}"))
    if directory:
        folder = Path(directory).expanduser()
        if not folder.is_dir():
            raise error(
                Reason.INVALID_FIELD,
                f"WEFT_GENERATOR__TEMPLATES: {folder} is no directory",
                field="WEFT_GENERATOR__TEMPLATES",
            )
        paths += sorted(folder.glob(f"*{SUFFIX}"))
    return Templates(map(read, paths), weights)


def render(template: Template, request: Request) -> Request:
    """The request as a chat model reads it."""
    last = next((at for at in reversed(range(len(request.messages))) if request.messages[at].role is Role.USER), None)
    question = "" if last is None else request.messages[last].content
    values = {
        "sources": fenced(request.passages, question),
        "question": question,
        "grounded_only": request.grounded_only,
        "no_answer": abstention(question),
    }
    instructions = [message.content for message in request.messages if message.role is Role.SYSTEM]
    if template.system is not None:
        instructions.insert(0, _render(template.system, values))
    talk = [Message(Role.SYSTEM, "\n\n".join(instructions))] if instructions else []
    if last is None and request.passages and template.user is not None:  # nobody asks; a tool has found something
        talk.append(Message(Role.USER, _render(template.user, values)))
    for at, message in enumerate(request.messages):
        if message.role is Role.TOOL:
            talk.append(replace(message, content=disarmed(message.content)))
        elif at == last and template.user is not None:
            talk.append(replace(message, content=_render(template.user, values)))
        elif message.role is not Role.SYSTEM:
            talk.append(message)
    return replace(request, messages=tuple(talk), passages=(), template=TemplateRef(template.name, template.version))


def _render(compiled: Compiled, values: Mapping[str, object]) -> str:
    return compiled.render(values).lstrip("\n")


def _title(template: Template) -> str:
    return f"{template.name} {template.version}"


def _newness(version: str) -> list[tuple[int, int, str]]:
    """Numbers by size, between them text: 2 < 10, 1.9 < 1.10."""
    return [(1, int(part), "") if part.isdigit() else (0, 0, part) for part in re.findall(r"\d+|\D+", version)]


def _bad_weights(problem: str) -> Exception:
    name = "WEFT_GENERATOR__TEMPLATE_WEIGHTS"
    return error(Reason.INVALID_FIELD, f"{name}: {problem}", field=name)
