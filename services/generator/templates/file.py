"""Reads one template file and checks it: syntax, names, what it declares against what it uses.

What is wrong is told with the file and the line. A template that passes renders: it was tried with made-up values,
with and without passages.

Jinja runs in its sandbox: a template reaches its variables and nothing of the process. Includes and imports are
refused, so that a version is one file and stays what it was.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import yaml
from jinja2 import StrictUndefined, TemplateError, nodes
from jinja2 import Template as Compiled
from jinja2.sandbox import ImmutableSandboxedEnvironment

from weft.errors import Reason, WeftError, error

SUFFIX: Final = ".jinja"
MAX_FILE_BYTES: Final = 262_144
VARIABLES: Final[Mapping[str, str]] = {
    "sources": "the passages, fenced and numbered; empty where there are none",
    "question": "the user's last message",
    "grounded_only": "whether to answer from the sources alone",
    "no_answer": "the sentence to say where they hold no answer, in the question's language",
}
_KEYS: Final = ("name", "version", "variables", "description")
_NAME: Final = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._-]{0,62}")
_GLOBALS: Final = frozenset({"range", "dict", "namespace", "loop", "lipsum", "cycler", "joiner"})  # Jinja's
_SECTION: Final = re.compile(r"^(system|user):[ \t]*$", re.MULTILINE)
_FENCE: Final = "---"
_TRIALS: Final[tuple[Mapping[str, object], ...]] = tuple(
    {"sources": sources, "question": "What is it?", "grounded_only": grounded, "no_answer": "There is none."}
    for sources in ("", '<source_0 id="1">\nIt is this.\n</source_0>')
    for grounded in (True, False)
)


@dataclass(frozen=True, slots=True)
class Template:
    """One version of a template, checked and compiled."""

    name: str
    version: str
    origin: Path
    system: Compiled | None
    """None adds no system message."""
    user: Compiled | None
    """None leaves the user's message as it is."""


class _Problem(Exception):
    """What is wrong with a file, and in which line, from 1."""

    def __init__(self, message: str, line: int = 1) -> None:
        super().__init__(message)
        self.line = line


def read(path: Path) -> Template:
    """Read a template.

    Raises:
        WeftError: INVALID_FIELD naming the file, the line and what is wrong there.
    """
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise _Problem(f"is larger than {MAX_FILE_BYTES} bytes")
        return _parse(path.read_text(encoding="utf-8"), path)
    except _Problem as exc:
        problem, line = str(exc), exc.line
    except (OSError, ValueError) as exc:
        problem, line = f"can't be read: {exc}", 1
    raise wrong(path, line, problem)


def wrong(path: Path, line: int, problem: str) -> WeftError:
    """What is raised for a file that can't be used."""
    message = f"prompt template {path}, line {line}: {problem}"
    return error(Reason.INVALID_FIELD, message, field="WEFT_GENERATOR__TEMPLATES", file=path, line=line)


def _parse(text: str, path: Path) -> Template:
    lines = text.splitlines(keepends=True)
    if not lines or lines[0].rstrip() != _FENCE:
        raise _Problem(f"does not begin with {_FENCE} and a front matter (name, version, variables)")
    end = next((at for at, line in enumerate(lines[1:], 1) if line.rstrip() == _FENCE), None)
    if end is None:
        raise _Problem(f"the front matter is not closed by a line with {_FENCE} alone")
    front = _front_matter("".join(lines[1:end]))
    # Blank lines in place of the front matter: Jinja then counts lines as the file does.
    body = "\n" * (end + 1) + "".join(lines[end + 1 :])
    sections = dict(_sections(body))
    environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    try:
        trees = {role: environment.parse(section) for role, section in sections.items()}
        _check_use(front, trees)
        compiled = {role: environment.from_string(tree) for role, tree in trees.items()}
    except TemplateError as exc:
        raise _Problem(f"is no Jinja: {exc}", getattr(exc, "lineno", None) or 1) from None
    for role, template in compiled.items():
        _try(role, template, sections[role])
    return Template(front.name, front.version, path, compiled.get("system"), compiled.get("user"))


# -- the front matter -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Front:
    name: str
    version: str
    variables: Mapping[str, int]
    """With the line of each."""


def _front_matter(text: str) -> _Front:
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as exc:
        mark = exc.problem_mark
        raise _Problem(f"the front matter is no YAML: {exc.problem}", mark.line + 2 if mark else 1) from None
    except yaml.YAMLError as exc:
        raise _Problem(f"the front matter is no YAML: {exc}") from None
    if not isinstance(root, yaml.MappingNode):
        raise _Problem("the front matter names nothing; there must be name, version and variables")
    found: dict[str, yaml.Node] = {}
    for key, value in root.value:
        if key.value not in _KEYS:
            raise _Problem(f"{key.value!r} is no key of a front matter; there are: {', '.join(_KEYS)}", _line(key))
        if key.value in found:
            raise _Problem(f"{key.value} is there twice", _line(key))
        found[key.value] = value
    return _Front(_name(found, "name"), _name(found, "version"), _declared(found.get("variables")))


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 2  # counted from 0, and below the first ---


def _name(found: Mapping[str, yaml.Node], key: str) -> str:
    node = found.get(key)
    if node is None:
        raise _Problem(f"the front matter has no {key}")
    value = node.value
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise _Problem(f"{key} is {str(value)[:64]!r}; it must be 1 to 63 of letters, digits, . _ -", _line(node))
    return value


def _declared(node: yaml.Node | None) -> dict[str, int]:
    if node is None:
        raise _Problem(f"the front matter has no variables; there are: {', '.join(VARIABLES)}")
    if not isinstance(node, yaml.SequenceNode):
        raise _Problem("variables is no list; an example is [sources, question]", _line(node))
    found: dict[str, int] = {}
    for item in node.value:
        if item.value not in VARIABLES:
            raise _Problem(f"{item.value!r} is no variable; there are: {', '.join(VARIABLES)}", _line(item))
        found[item.value] = _line(item)
    return found


# -- the sections -----------------------------------------------------------------------------------------


def _sections(body: str) -> Iterator[tuple[str, str]]:
    """Yield each role with its part of the file, blank lines in place of all that stands before it."""
    heads = list(_SECTION.finditer(body))
    if not heads:
        raise _Problem("has no section; there must be a line with system: or user: alone", body.count("\n"))
    before = body[: heads[0].start()]
    if before.strip():
        line = before[: len(before) - len(before.lstrip())].count("\n") + 1
        raise _Problem("text stands before the first section, system: or user:", line)
    seen: set[str] = set()
    for head, following in zip(heads, [*heads[1:], None], strict=True):
        role, line = head[1], body.count("\n", 0, head.start()) + 1
        if role in seen:
            raise _Problem(f"there are two {role}: sections", line)
        seen.add(role)
        yield role, "\n" * line + body[head.end() + 1 : following.start() if following else None].rstrip()


def _check_use(front: _Front, trees: Mapping[str, nodes.Template]) -> None:
    """What is used must be declared, what is declared used, and nothing that a caller sent may get lost."""
    used: set[str] = set()
    for tree in trees.values():
        for other in tree.find_all((nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends)):
            raise _Problem("takes in another file; a version of a template is one file", other.lineno)
        bound = {node.name for node in tree.find_all(nodes.Name) if node.ctx in ("store", "param")}
        for node in tree.find_all(nodes.Name):
            if node.ctx != "load" or node.name in bound or node.name in _GLOBALS:
                continue
            if node.name not in front.variables:
                hint = "" if node.name in VARIABLES else f"; there are: {', '.join(VARIABLES)}"
                raise _Problem(f"uses {node.name!r}, which `variables` doesn't declare{hint}", node.lineno)
            used.add(node.name)
    for name, line in front.variables.items():
        if name not in used:
            raise _Problem(f"declares {name!r} and doesn't use it", line)
    if "sources" not in used:
        raise _Problem("uses sources nowhere: the passages would be lost")
    if "user" in trees and not any(node.name == "question" for node in trees["user"].find_all(nodes.Name)):
        raise _Problem("the user: section doesn't use question: what was asked would be lost")


def _try(role: str, template: Compiled, section: str) -> None:
    """Render with made-up values."""
    for values in _TRIALS:
        try:
            template.render(values)
        except Exception as exc:  # whatever a template's expressions may raise
            raise _Problem(f"{role}: can't be rendered: {exc}", _failed_line(exc) or section.count("\n")) from None


def _failed_line(exc: BaseException) -> int | None:
    """The template's line, which Jinja writes into the traceback."""
    line, trace = None, exc.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == "<template>":
            line = trace.tb_lineno
        trace = trace.tb_next
    return line
