"""Filters: which documents a search may look at. ``filtersyntax`` reads the text, this says what it means.

Fields. ``source``, ``title``, ``mime_type`` and ``update_time`` are the document's own; ``metadata.team`` is what the
caller keeps with it, and any other name means metadata too: ``team`` is ``metadata.team``. Dots lead into nested
objects; a name with odd characters is quoted: ``metadata."cost centre".eu``.

Comparisons. The value in the document decides by its type:

    text        = != < <= > >= by code points, exactly; ``:`` holds where the text contains the value
    number      against a bare number (42, -1.5, 2e3)
    truth       = != and : against a bare true or false
    object      ``:`` holds where it has a key of that name
    list        ``:`` holds where it does for one of the elements (text and numbers there: equal); it also looks
                for names in the objects of a list
    update_time against an RFC 3339 time or a date (UTC): 2026-01-31, "2026-01-31T12:00:00Z"

``field:*`` holds where the field is there. Where a field is missing or null, or of a type that the value can't be,
no comparison holds, ``!=`` neither; ``NOT field = x`` holds for those, too. A bare word also means itself as text:
``year = 2026`` finds the number and the text "2026"; ``year = "2026"`` the text alone.

A filter is applied before anything is scored: what it leaves out takes no place among the candidates. It is
evaluated once per document, not per chunk.

Errors: FILTER_INVALID, see ``filtersyntax``.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from services.retriever.search.filtersyntax import And, Literal, Node, Not, Restriction, invalid, parse
from services.retriever.types import Document, Filter

Predicate = Callable[[Document], bool]
_OWN: Final = ("source", "title", "mime_type", "update_time")
_METADATA: Final = "metadata"
_ORDERS: Final[Mapping[str, Callable[[Any, Any], bool]]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def compile_filter(text: str) -> Filter:
    """Understand a filter, which must not be empty.

    Raises:
        WeftError: FILTER_INVALID.
    """
    return Filter(text, _predicate(parse(text)))


def _predicate(node: Node) -> Predicate:
    if isinstance(node, Restriction):
        return _restriction(node)
    if isinstance(node, Not):
        term = _predicate(node.term)
        return lambda document: not term(document)
    parts = tuple(_predicate(part) for part in node.parts)
    if isinstance(node, And):
        return lambda document: all(part(document) for part in parts)
    return lambda document: any(part(document) for part in parts)


def _restriction(node: Restriction) -> Predicate:
    first, *rest = node.names
    if first in _OWN:
        if rest:
            raise invalid(
                node.position, f"{first} has nothing inside; for metadata of that name write metadata.{first}"
            )
        return _own(first, node)
    if first == _METADATA:
        if not rest:
            raise invalid(node.position, "metadata wants a name inside it: metadata.team")
    else:
        rest = [first, *rest]
    holds = _holding(node.comparator, node.value)
    spread = node.comparator == ":"
    return lambda document: any(holds(value) for value in _values(document.metadata, rest, spread))


def _own(name: str, node: Restriction) -> Predicate:
    if name != "update_time":
        holds = _holding(node.comparator, node.value)
        return lambda document: (text := getattr(document, name)) != "" and holds(text)
    if node.comparator == ":" and node.value.anything:
        return lambda document: True
    order = _ORDERS.get(node.comparator)
    if order is None:
        raise invalid(node.position, "update_time is compared by = != < <= > >=; : takes only *")
    when_s = _seconds(node.value)
    return lambda document: order(document.updated_s, when_s)


def _seconds(value: Literal) -> float:
    try:
        when = datetime.fromisoformat(value.text)
    except ValueError:
        raise invalid(
            value.position, "update_time is compared with a date or time: 2026-01-31, 2026-01-31T12:00:00Z"
        ) from None
    return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()


def _values(inside: object, names: Sequence[str], spread: bool) -> Iterator[object]:
    """What stands at ``names``: nothing, one value, or where lists are looked into as many as there are."""
    if not names:
        if inside is not None:
            yield inside
    elif isinstance(inside, Mapping):
        if names[0] in inside:
            yield from _values(inside[names[0]], names[1:], spread)
    elif spread and isinstance(inside, list):
        for element in inside:
            yield from _values(element, names, spread)


def _holding(comparator: str, value: Literal) -> Callable[[object], bool]:
    """The comparison of a document's value with the filter's."""
    order = _ORDERS.get(comparator)
    text, number, truth = value.text, value.number, value.truth

    def compared(found: object) -> bool:
        assert order is not None
        if isinstance(found, str):
            return order(found, text)
        if isinstance(found, bool):
            return truth is not None and comparator in ("=", "!=") and order(found, truth)
        if isinstance(found, int | float):
            return number is not None and order(found, number)
        return False

    def equal(found: object) -> bool:
        if isinstance(found, str):
            return found == text
        if isinstance(found, bool):
            return found is truth
        if isinstance(found, int | float):
            return number is not None and found == number
        return isinstance(found, Mapping) and found.get(text) is not None

    def has(found: object) -> bool:
        if isinstance(found, str):
            return text in found
        if isinstance(found, list):
            return any(equal(element) for element in found)
        return equal(found)

    if comparator != ":":
        return compared
    return (lambda found: True) if value.anything else has
