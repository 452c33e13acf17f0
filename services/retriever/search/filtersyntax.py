"""The grammar of filters: text in, a tree out. What the tree means is in ``filtering``.

A subset of Google's AIP-160, read by recursive descent, one method to a rule:

    expression = factor { "AND" factor }
    factor     = term { "OR" term }                      OR binds tighter than AND, as AIP-160 has it
    term       = [ "NOT" | "-" ] ( "(" expression ")" | restriction )
    restriction = field ( "=" | "!=" | "<" | "<=" | ">" | ">=" | ":" ) value
    field      = name { "." name }                       a name: letters, digits, _ and -, or a quoted string
    value      = a quoted string ('…' or "…", \\ escapes) or a bare word: 42, true, draft, 2026-01-31; * after ":"

Of AIP-160 it leaves out words standing alone, terms side by side without AND, functions, and wildcards inside
strings. Each is refused where it stands rather than guessed at.

Bounds: ``MAX_CHARS``, ``MAX_DEPTH`` of parentheses and NOTs, ``MAX_RESTRICTIONS``, ``MAX_NAMES`` in a field. The
text is scanned once, left to right.

Errors: FILTER_INVALID with the position (code points, from 0), what stands there and what may.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from mesh.validation import shorten
from weft.errors import Reason, WeftError, error

MAX_CHARS: Final = 2_048
MAX_DEPTH: Final = 16
MAX_RESTRICTIONS: Final = 64
MAX_NAMES: Final = 16
COMPARATORS: Final = ("!=", "<=", ">=", "=", "<", ">", ":")
_SPACE: Final = re.compile(r"\s*")
_NAME: Final = re.compile(r"[\w][\w-]*")
_COMPARATOR: Final = re.compile(r"!=|<=|>=|[=<>:]")
_BARE: Final = re.compile(r"""[^\s()"'<>=!,]+""")
_NUMBER: Final = re.compile(r"-?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d{1,3})?")
_KEYWORDS: Final = frozenset({"AND", "OR", "NOT"})


@dataclass(frozen=True, slots=True)
class Literal:
    """A value as it was written. A bare word may also mean a number or a truth value; a quoted one is text."""

    text: str
    quoted: bool
    position: int

    @property
    def number(self) -> float | None:
        """The number that it means, if any."""
        return None if self.quoted or not _NUMBER.fullmatch(self.text) else float(self.text)

    @property
    def truth(self) -> bool | None:
        """The truth value that it means, if any."""
        return None if self.quoted else {"true": True, "false": False}.get(self.text)

    @property
    def anything(self) -> bool:
        """Whether it is the bare ``*``."""
        return self.text == "*" and not self.quoted


@dataclass(frozen=True, slots=True)
class Restriction:
    """``field comparator value``."""

    names: tuple[str, ...]
    comparator: str
    value: Literal
    position: int


@dataclass(frozen=True, slots=True)
class Not:
    """The opposite of ``term``."""

    term: Node


@dataclass(frozen=True, slots=True)
class And:
    """All of ``parts``."""

    parts: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Or:
    """Any of ``parts``."""

    parts: tuple[Node, ...]


Node = Restriction | Not | And | Or


def parse(text: str) -> Node:
    """The tree of a filter, which must not be empty.

    Raises:
        WeftError: FILTER_INVALID.
    """
    if len(text) > MAX_CHARS:
        raise invalid(MAX_CHARS, f"the filter has {len(text)} characters; at most {MAX_CHARS} are read: shorten it")
    return _Parser(text).whole()


def invalid(position: int, problem: str, **metadata: str | int) -> WeftError:
    """FILTER_INVALID at a place in the filter."""
    err = error(Reason.FILTER_INVALID, f"filter: at {position}: {problem}", field="filter", position=position)
    err.metadata.update({key: str(value) for key, value in metadata.items()})
    return err


class _Parser:
    """Reads one filter from left to right; ``_at`` is where it stands."""

    def __init__(self, text: str) -> None:
        self._text, self._at, self._restrictions = text, 0, 0

    def whole(self) -> Node:
        node = self._expression(0)
        if not self._ended():
            raise self._unexpected("AND, OR or the end")
        return node

    def _expression(self, depth: int) -> Node:
        parts = [self._factor(depth)]
        while self._keyword("AND"):
            parts.append(self._factor(depth))
        return parts[0] if len(parts) == 1 else And(tuple(parts))

    def _factor(self, depth: int) -> Node:
        parts = [self._term(depth)]
        while self._keyword("OR"):
            parts.append(self._term(depth))
        return parts[0] if len(parts) == 1 else Or(tuple(parts))

    def _term(self, depth: int) -> Node:
        self._skip()
        if depth > MAX_DEPTH:
            raise invalid(self._at, f"parentheses and NOTs stand in each other more than {MAX_DEPTH} deep")
        if self._keyword("NOT") or self._sign("-"):
            return Not(self._term(depth + 1))
        if self._sign("("):
            node = self._expression(depth + 1)
            if not self._sign(")"):
                raise self._unexpected("AND, OR or )")
            return node
        return self._restriction()

    def _restriction(self) -> Restriction:
        self._skip()
        position = self._at
        names = [self._name()]
        while self._text.startswith(".", self._at):
            self._at += 1
            names.append(self._name())
        if len(names) > MAX_NAMES:
            raise invalid(position, f"a field of {len(names)} names; at most {MAX_NAMES} are followed")
        self._skip()
        comparator = _COMPARATOR.match(self._text, self._at)
        if comparator is None:
            raise self._unexpected(f"one of {' '.join(COMPARATORS)} after the field {'.'.join(names)[:60]}")
        self._at = comparator.end()
        self._restrictions += 1
        if self._restrictions > MAX_RESTRICTIONS:
            raise invalid(position, f"more than {MAX_RESTRICTIONS} comparisons; use fewer")
        return Restriction(tuple(names), comparator.group(), self._value(comparator.group()), position)

    def _name(self) -> str:
        if self._text[self._at : self._at + 1] in ("'", '"'):
            return self._string()
        match = _NAME.match(self._text, self._at)
        if match is None or match.group() in _KEYWORDS:
            raise self._unexpected('a field (a name such as team, or "a quoted one"), NOT or (')
        self._at = match.end()
        return match.group()

    def _value(self, comparator: str) -> Literal:
        self._skip()
        position = self._at
        if self._text[position : position + 1] in ("'", '"'):
            return Literal(self._string(), True, position)
        match = _BARE.match(self._text, position)
        if match is None or match.group() in _KEYWORDS:
            raise self._unexpected("a value: 'a quoted string', a number, true, false or a word")
        if "*" in match.group() and (match.group() != "*" or comparator != ":"):
            raise invalid(position, "* stands only alone and after a colon (field:*, the field is there); quote it "
                          "to mean the character")  # fmt: skip
        self._at = match.end()
        return Literal(match.group(), False, position)

    def _string(self) -> str:
        quote, start = self._text[self._at], self._at
        found: list[str] = []
        at = start + 1
        while at < len(self._text):
            char = self._text[at]
            if char == quote:
                self._at = at + 1
                return "".join(found)
            if char == "\\":
                at += 1
                char = self._text[at : at + 1]
                if char not in ("\\", "'", '"'):
                    raise invalid(at - 1, "after \\ comes \\ or a quotation mark, the character that is meant")
            found.append(char)
            at += 1
        raise invalid(start, f"this {quote} has no partner; close the string")

    def _keyword(self, word: str) -> bool:
        self._skip()
        match = _NAME.match(self._text, self._at)
        if match is None or match.group() != word:
            return False
        self._at = match.end()
        return True

    def _sign(self, sign: str) -> bool:
        self._skip()
        if not self._text.startswith(sign, self._at):
            return False
        self._at += 1
        return True

    def _skip(self) -> None:
        match = _SPACE.match(self._text, self._at)
        assert match is not None
        self._at = match.end()

    def _ended(self) -> bool:
        self._skip()
        return self._at == len(self._text)

    def _unexpected(self, expected: str) -> WeftError:
        found = "the filter ends" if self._ended() else f"{shorten(self._text[self._at :], 24)!r} stands"
        return invalid(self._at, f"{found} where {expected} is expected", expected=expected)
