"""Which questions lean on the session, and how they are completed."""

from __future__ import annotations

import pytest

from services.orchestrator.followup import completed, leans_back
from services.orchestrator.types import Exchange


@pytest.mark.parametrize(
    "question",
    [
        "And in Chinese?",
        "What about Consul?",
        "how about etcd",
        "Why?",
        "How does it elect a leader?",
        "Where are they stored?",
        "What is its default port?",
        "Can you explain that?",
        "Is this fast?",
        "For Envoy as well?",
        "Does the same hold for searches?",
        "Tell me more",
        "Who wrote it?",
        "那它怎么工作?",
        "中文呢?",
        "还有别的方法吗?",
    ],
)
def test_a_question_that_leans_on_the_session_is_told(question: str) -> None:
    assert leans_back(question)


@pytest.mark.parametrize(
    "question",
    [
        "What is an epoch?",
        "How does the control plane elect a leader?",
        "Does Weft log what it does?",
        "Is it possible to run Weft without Docker?",
        "How long does it take to start a replica?",
        "What time is it in Berlin?",
        "Why does Weft use gRPC?",
        "What is 12 * 7?",
        "Which retriever finds the passages that fit a question best?",
        "什么是纪元?",
        "???",
    ],
)
def test_a_question_that_stands_alone_is_left_alone(question: str) -> None:
    assert not leans_back(question)
    assert completed(question, [Exchange("What is Consul?", "A registry.")]) == question


def test_the_telling_words_of_the_question_before_are_added() -> None:
    history = [Exchange("What is Envoy?", "A proxy."), Exchange("How does the registry find dead instances?", "So.")]
    assert completed("And how long does that take?", history) == (
        "And how long does that take? (registry dead instances)"
    )


def test_a_chain_of_follow_ups_keeps_the_subject() -> None:
    first = Exchange("How does Weft balance load?", "By ORCA.")
    second = completed("What about Envoy?", [first])
    third = completed("And why?", [first, Exchange("What about Envoy?", "So.", query=second)])
    assert third == "And why? (Envoy Weft balance load)"


def test_words_that_the_question_says_itself_are_not_repeated() -> None:
    history = [Exchange("What is the default port of the retriever?", "9500.")]
    assert completed("And the port of the tools?", history) == "And the port of the tools? (default retriever)"


def test_a_chinese_question_is_completed_with_the_whole_one_before() -> None:
    assert completed("中文呢?", [Exchange("检索器支持英文吗?", "支持。")]) == "中文呢? (检索器支持英文吗?)"


def test_without_history_there_is_nothing_to_add() -> None:
    assert completed("And in Chinese?", []) == "And in Chinese?"


def test_a_completed_question_stays_within_the_limit_of_a_search() -> None:
    assert len(completed("Why? " + "x" * 8_187, [Exchange("How does it all hang together?", "")])) <= 8_192
    assert len(completed("and " + "x" * 8_188, [Exchange("How does the registry work?", "")])) == 8_192
