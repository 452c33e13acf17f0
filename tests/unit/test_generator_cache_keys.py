"""Which requests share an answer: equal ones of one tenant, and no others."""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.generator.caching.keys import encode, key_of
from services.generator.types import (
    Capabilities,
    Message,
    Request,
    Resume,
    Role,
    Sampling,
    TemplateRef,
    ToolCall,
    ToolOffer,
)
from weft.values import Passage

CAPABILITIES = Capabilities("scripted", version="1")
SAYS_NOTHING_OF_THE_ANSWER = {
    "allow_cached": True,
    "bucket": 7,
    "priority": 3,
    "resume": Resume((1,), (2,), 1),
    "piece_interval_s": 0.1,
}
OTHERWISE: dict[str, Any] = {  # each field of a request, in another way than in REQUEST
    "messages": (Message(Role.USER, "Why?"),),
    "passages": (),
    "tools": (ToolOffer("clock", "Tells the time", {}),),
    "sampling": Sampling(temperature=0.0),
    "json_schema": {"type": "object"},
    "include_token_ids": True,
    "grounded_only": False,
    "query": "why (weft)",
    "tenant": "other",
    "template": TemplateRef("answer", "2"),
}
REQUEST = Request(
    messages=(Message(Role.USER, "What?"),),
    passages=(Passage("collections/c/documents/d/chunks/0", "Weft weaves.", metadata={"year": 2026}),),
    template=TemplateRef("answer", "1"),
)


def key(request: Request, name: str = "m", url: str = "scripted:", capabilities: Capabilities = CAPABILITIES) -> str:
    return key_of(request, name, url, capabilities)


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Request)])
def test_each_field_of_a_request_is_in_the_key_or_says_nothing_of_the_answer(field: str) -> None:
    if field == "model":  # whatever name led to this model, it is this model that answers
        assert key(replace(REQUEST, model="m")) == key(replace(REQUEST, model="")) == key(REQUEST)
    elif field in SAYS_NOTHING_OF_THE_ANSWER:
        assert key(replace(REQUEST, **{field: SAYS_NOTHING_OF_THE_ANSWER[field]})) == key(REQUEST)
    else:
        assert key(replace(REQUEST, **{field: OTHERWISE[field]})) != key(REQUEST)


def test_models_share_no_answers_unless_name_place_and_version_are_the_same() -> None:
    keys = {
        key(REQUEST),
        key(REQUEST, name="n"),
        key(REQUEST, url="scripted:?text=other"),
        key(REQUEST, capabilities=Capabilities("scripted", version="2")),
        key(REQUEST, capabilities=Capabilities("openai", version="1")),
    }
    assert len(keys) == 5


def test_a_key_begins_with_its_tenant_and_tenants_share_no_hash() -> None:
    mine, theirs = key(replace(REQUEST, tenant="acme")), key(replace(REQUEST, tenant="other"))
    assert mine.startswith("acme:")
    assert mine.partition(":")[2] != theirs.partition(":")[2]


TEXT = st.text(alphabet='ab":,[]\\{}0é🦁\ud83d\x00', max_size=5)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats(-2, 2, width=16).map(lambda x: x + 0.0) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
MESSAGES = st.builds(
    Message,
    role=st.sampled_from(Role),
    content=TEXT,
    tool_calls=st.lists(
        st.builds(ToolCall, id=TEXT, name=TEXT, arguments=st.dictionaries(TEXT, JSON, max_size=2)), max_size=2
    ).map(tuple),
    tool_call_id=TEXT,
    name=TEXT,
)
REQUESTS = st.builds(
    Request,
    messages=st.lists(MESSAGES, max_size=2).map(tuple),
    passages=st.lists(
        st.builds(
            Passage,
            name=TEXT,
            text=TEXT,
            title=TEXT,
            section=TEXT,
            source=TEXT,
            metadata=st.dictionaries(TEXT, JSON, max_size=2),
        ),
        max_size=2,
    ).map(tuple),
    tools=st.lists(
        st.builds(ToolOffer, name=TEXT, description=TEXT, input_schema=st.dictionaries(TEXT, JSON, max_size=2)),
        max_size=2,
    ).map(tuple),
    sampling=st.builds(
        Sampling,
        temperature=st.none() | st.sampled_from([0.0, 0.5]),
        max_tokens=st.none() | st.integers(0, 2),
        stop=st.lists(TEXT, max_size=2).map(tuple),
        seed=st.none() | st.integers(0, 2),
    ),
    json_schema=st.none() | st.dictionaries(TEXT, JSON, max_size=2),
    include_token_ids=st.booleans(),
    grounded_only=st.booleans(),
    query=TEXT,
    tenant=st.sampled_from(["default", "a", "ab"]),
    template=st.none() | st.builds(TemplateRef, name=TEXT, version=TEXT),
)


@settings(max_examples=80, deadline=None)
@given(st.lists(REQUESTS, min_size=2, max_size=5))
def test_two_requests_have_one_key_only_if_they_are_equal(requests: list[Request]) -> None:
    for first in requests:
        for second in requests:
            assert (key(first) == key(second)) == (exactly(first) == exactly(second))


def encoded(value: Any) -> bytes:
    parts: list[bytes] = []
    encode(value, parts.append)
    return b"".join(parts)


def exactly(value: Any) -> Any:
    """The value, so that what Python takes for equal (1, 1.0 and True) is not."""
    if isinstance(value, dict):
        return frozenset((name, exactly(item)) for name, item in value.items())
    if isinstance(value, (list, tuple)):
        return tuple(exactly(item) for item in value)
    if dataclasses.is_dataclass(value):
        return tuple(exactly(getattr(value, field.name)) for field in dataclasses.fields(value))
    return ("text", str(value)) if isinstance(value, str) else (type(value), value)


@settings(max_examples=300, deadline=None)
@given(JSON, JSON)
def test_what_is_written_alike_is_alike(first: Any, second: Any) -> None:
    assert (encoded(first) == encoded(second)) == (exactly(first) == exactly(second))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (["ab", "c"], ["a", "bc"]),
        (["a", ""], ["a"]),
        ([["a"], "b"], [["a", "b"]]),
        ({"a": "b", "c": "d"}, ["a", "b", "c", "d"]),
        ("1", 1),
        (1, 1.0),
        (1, True),
        (None, ""),
        ("s1:a", "a"),
        ("🦁", "\ud83e\udd81"),
    ],
)
def test_parts_cut_otherwise_are_not_the_same(first: Any, second: Any) -> None:
    assert hashlib.sha256(encoded(first)).digest() != hashlib.sha256(encoded(second)).digest()


def test_objects_have_no_order() -> None:
    assert encoded({"a": 1, "b": {"c": 2, "d": 3}}) == encoded({"b": {"d": 3, "c": 2}, "a": 1})


def test_what_a_request_cannot_hold_is_refused() -> None:
    with pytest.raises(TypeError, match="a request holds a set"):
        encoded({1})
