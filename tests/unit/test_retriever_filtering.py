"""Filters: what they mean, held against a plain evaluator of their own, and where they are refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.retriever.search.filtering import compile_filter
from services.retriever.search.filtersyntax import MAX_CHARS, MAX_DEPTH, MAX_RESTRICTIONS
from services.retriever.types import Document
from weft.errors import WeftError

PLAIN = Document("d", "docs/guide.md", "The Guide", "text/markdown", "0" * 64, 3, updated_s=1_767_225_600.0)
METADATA = {
    "team": "search",
    "year": 2026.0,
    "version": "3",
    "draft": False,
    "gone": None,
    "tags": ["new", "public", 7.0],
    "owner": {"name": "Ada", "since": 1843.0},
    "parts": [{"name": "a"}, {"name": "b", "price": 3.0}],
    "cost centre": {"eu": 9.0},
    "标签": "中文",
    "title": "not the document's",
}
DOCUMENT = replace(PLAIN, metadata=METADATA)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('team = "search"', True),
        ("team = search", True),
        ("team=search", True),
        ("metadata.team = 'search'", True),
        ('team != "search"', False),
        ('team < "t" AND team >= "search"', True),
        ('team:"arc"', True),
        ('team = "arc"', False),
        ("year = 2026", True),
        ("year = 2026.0", True),
        ("year >= 2e3 AND year < 2026.5", True),
        ('year = "2026"', False),
        ("year:2026", True),
        ("version = 3", True),
        ("version = '3'", True),
        ("version > 2", True),
        ("draft = false", True),
        ("draft != true", True),
        ('draft = "false"', False),
        ("draft < true", False),
        ("tags:new", True),
        ("tags:7", True),
        ("tags:ne", False),
        ("tags = new", False),
        ("tags:*", True),
        ("owner:name", True),
        ("owner:nam", False),
        ("owner.name = Ada", True),
        ("owner.name.first = Ada", False),
        ("owner.since > 1800", True),
        ("parts:name", True),
        ("parts.name:b", True),
        ("parts.price:3", True),
        ("parts.name = b", False),
        ('"cost centre".eu = 9', True),
        ("标签 = 中文", True),
        ("gone:*", False),
        ("gone = null", False),
        ("absent = x", False),
        ("absent != x", False),
        ("NOT absent = x", True),
        ("-absent:*", True),
        ("team = sales OR year = 2026", True),
        # OR binds tighter: false AND (true OR true)
        ("team = sales AND year = 2026 OR draft = false", False),
        ("(team = sales AND year = 2026) OR draft = false", True),
        ("NOT (team = sales OR draft = true)", True),
        ("source:docs/", True),
        ('title = "The Guide"', True),
        ('metadata.title = "The Guide"', False),
        ("mime_type = text/markdown", True),
        ("update_time >= 2026-01-01", True),
        ("update_time > 2026-01-01T00:00:00Z", False),
        ('update_time = "2026-01-01T01:00:00+01:00"', True),
        ("update_time:*", True),
    ],
)
def test_a_filter_means_what_it_says(text: str, expected: bool) -> None:
    assert compile_filter(text).matches(DOCUMENT) is expected


@pytest.mark.parametrize(
    ("text", "position", "says"),
    [
        ("team", 4, "one of != <= >= = < > :"),
        ("team = ", 7, "a value"),
        ("= 3", 0, "a field"),
        ("team = a b = c", 9, "AND, OR or the end"),
        ("team = a AND", 12, "a field"),
        ("team = a and b = c", 9, "AND, OR or the end"),
        ("(team = a", 9, "AND, OR or )"),
        ("team = a)", 8, "AND, OR or the end"),
        ("team == a", 6, "a value"),
        ("team = 'a", 7, "no partner"),
        (r"team = 'a\n'", 9, "after \\ comes"),
        ("team = sea*", 7, "* stands only alone"),
        ("team = *", 7, "* stands only alone"),
        ("a..b = 1", 2, "a field"),
        ("title.x = 1", 0, "metadata.title"),
        ("metadata = 1", 0, "metadata.team"),
        ("update_time > yesterday", 14, "2026-01-31"),
        ("update_time:2026-01-01", 0, "takes only *"),
        ("size(tags) = 1", 4, "one of"),
        ("a = x AND OR = y", 10, "a field"),
        ("NOT " * (MAX_DEPTH + 1) + "a = 1", 4 * (MAX_DEPTH + 1), f"more than {MAX_DEPTH} deep"),
        ("(" * 2_000, MAX_DEPTH + 1, f"more than {MAX_DEPTH} deep"),
        (" AND ".join(["a = 1"] * (MAX_RESTRICTIONS + 1)), 640, f"more than {MAX_RESTRICTIONS} comparisons"),
        (".".join("a" * 20) + " = 1", 0, "at most 16"),
        ("a" * (MAX_CHARS + 1), MAX_CHARS, "shorten it"),
    ],
)
def test_a_filter_that_cannot_be_read_is_refused_where_it_fails(text: str, position: int, says: str) -> None:
    with pytest.raises(WeftError) as caught:
        compile_filter(text)
    err = caught.value
    assert (err.reason, err.field, err.metadata["position"]) == ("FILTER_INVALID", "filter", str(position))
    assert says in err.message
    assert len(err.message) < 300


@given(st.text(alphabet="ab.:=!<>()'\"\\ -*1中ANDORT", max_size=40))
def test_any_text_is_understood_or_refused_and_nothing_else(text: str) -> None:
    try:
        matches = compile_filter(text).matches
    except WeftError as err:
        assert err.reason == "FILTER_INVALID"
        assert 0 <= int(err.metadata["position"]) <= len(text)
    else:
        assert matches(DOCUMENT) in (True, False)


# A tree of our own, its text in one of the ways it may be written, and what it means, each by other code than the
# service's. Leaves are (field, comparator, value).
FIELDS = ("a", "b", "a.b", "c")
scalars = st.one_of(st.text("xy1 '\"\\", max_size=3), st.integers(-3, 3), st.booleans())
leaves = st.tuples(st.sampled_from(FIELDS), st.sampled_from(["=", "!=", "<", "<=", ">", ">=", ":"]), scalars)
trees: st.SearchStrategy[Any] = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.tuples(st.just("NOT"), inner),
        st.tuples(st.just("AND"), st.lists(inner, min_size=2, max_size=3)),
        st.tuples(st.just("OR"), st.lists(inner, min_size=2, max_size=3)),
    ),
    max_leaves=8,
)
stored = st.one_of(scalars, st.none(), st.lists(scalars, max_size=3))
metadata = st.dictionaries(st.sampled_from(["a", "b", "c"]), st.one_of(stored, st.dictionaries(st.just("b"), stored)))


def written(tree: Any, within: str, spaces: str, quote: str) -> str:
    """The text of a tree, in no more parentheses than it needs."""
    kind = tree[0]
    if kind == "NOT":
        inner = written(tree[1], "NOT", spaces, quote)
        return f"NOT{spaces}{inner}"
    if kind in ("AND", "OR"):
        joined = f"{spaces}{kind}{spaces}".join(written(part, kind, spaces, quote) for part in tree[1])
        bare = not within or (within, kind) == ("AND", "OR")
        return joined if bare else f"({joined})"
    field, comparator, value = tree
    if isinstance(value, str):
        for char in ("\\", quote):
            value = value.replace(char, "\\" + char)
        value = f"{quote}{value}{quote}"
    return f"{field}{comparator}{str(value).lower() if isinstance(value, bool) else value}"


def holds(tree: Any, there: Mapping[str, Any]) -> bool:
    kind = tree[0]
    if kind == "NOT":
        return not holds(tree[1], there)
    if kind in ("AND", "OR"):
        return (all if kind == "AND" else any)([holds(part, there) for part in tree[1]])
    field, comparator, value = tree
    found: Any = there
    for name in field.split("."):
        found = found.get(name) if isinstance(found, dict) else None
    if comparator == ":":
        if isinstance(found, list):
            return any((type(f) is type(value) and f == value) or bare_text(f, value) for f in found)
        if isinstance(found, dict):
            return found.get(str(value).lower() if isinstance(value, bool) else str(value)) is not None
        if isinstance(found, str):
            return (str(value).lower() if isinstance(value, bool) else str(value)) in found
        return type(found) is type(value) and found == value
    if isinstance(found, str) and not isinstance(value, str):
        value = str(value).lower() if isinstance(value, bool) else str(value)
    if type(found) is not type(value) or (isinstance(found, bool) and comparator not in ("=", "!=")):
        return False
    return {"=": found == value, "!=": found != value}.get(
        comparator, sorted([found, value])[comparator[0] == ">"] == found and (found != value or comparator[1:] == "=")
    )


def bare_text(found: Any, value: Any) -> bool:
    """A bare 1 or true in the filter also means the text "1" or "true"."""
    return isinstance(found, str) and not isinstance(value, str) and found == str(value).lower()


@given(trees, metadata, st.sampled_from([" ", "  ", "\n\t"]), st.sampled_from("'\""))
def test_it_agrees_with_a_plain_evaluator(tree: Any, there: Mapping[str, Any], spaces: str, quote: str) -> None:
    text = written(tree, "", spaces, quote)
    assert compile_filter(text).matches(replace(PLAIN, metadata=there)) is holds(tree, there)
