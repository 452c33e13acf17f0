"""URLs name plugins; fields are bounded at the door."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh import plugins
from mesh.plugins import Url
from mesh.validation import check_name, check_page, check_range, check_text, shorten
from weft.errors import WeftError


def test_a_url_is_taken_apart() -> None:
    url = Url.parse("consul://user:pw@host:8500/prefix?token=abc&dc=eu")
    assert (url.scheme, url.host, url.port, url.path) == ("consul", "host", 8500, "/prefix")
    assert url.query == {"token": "abc", "dc": "eu"}


def test_a_printed_url_hides_password_and_token() -> None:
    printed = f"{Url.parse('consul://user:pw@host:8500/p?token=abc&dc=eu')!r}"
    assert "pw" not in printed
    assert "abc" not in printed
    assert "dc=eu" in printed


@pytest.mark.parametrize("raw", ["", "builtin", "://x", "UP:", "a b:", "http://h:port"])
def test_what_is_not_a_url_is_refused(raw: str) -> None:
    with pytest.raises(WeftError):
        Url.parse(raw)


def test_an_unknown_scheme_lists_those_there_are() -> None:
    with pytest.raises(WeftError, match=r"nosuch: is not a known scheme here; there are: .*incoming"):
        plugins.load("mesh.interceptors", Url.parse("nosuch:"))


@given(st.text(max_size=60))
def test_text_is_accepted_whole_or_refused(text: str) -> None:
    try:
        assert check_text("f", text, max_chars=50) == text
        assert 0 < len(text) <= 50
        assert not re.search(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]", text)
    except WeftError as err:
        assert err.field == "f"
        assert len(err.message) < 300


def test_an_error_about_a_megabyte_is_short() -> None:
    with pytest.raises(WeftError) as caught:
        check_text("question", "x" * 1_000_000, max_chars=8_192)
    assert len(str(caught.value)) < 200
    assert caught.value.metadata["length"] == "1000000"


def test_a_lone_surrogate_is_named() -> None:
    with pytest.raises(WeftError, match=r"U\+D800"):
        check_text("question", "a\ud800b", max_chars=10)


@pytest.mark.parametrize("value", [float("nan"), -1, 101])
def test_a_number_outside_its_range_is_refused(value: float) -> None:
    with pytest.raises(WeftError, match="0 to 100"):
        check_range("weight", value, 0, 100)


def test_a_name_must_match_as_a_whole() -> None:
    with pytest.raises(WeftError, match="collections/docs"):
        check_name("name", "collections/Docs!", re.compile(r"collections/[a-z-]+"), "collections/docs")


def test_pages_have_a_default_and_a_bound() -> None:
    assert check_page(0, "") == (100, "")
    with pytest.raises(WeftError):
        check_page(1_001, "")


def test_quoted_values_are_printable() -> None:
    assert shorten("a\x00b") == "a\\x00b"
