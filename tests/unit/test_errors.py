"""The table of reasons is complete, and errors survive both ways of travelling."""

from __future__ import annotations

import grpc
import pytest
from google.rpc import error_details_pb2

from weft import errors
from weft.common.v1 import error_reason_pb2
from weft.errors import TABLE, Reason, error, from_proto, from_rpc_error, to_proto


def test_every_reason_of_the_contract_has_a_code() -> None:
    contract = {name.removeprefix("ERROR_REASON_") for name in error_reason_pb2.ErrorReason.keys()} - {"UNSPECIFIED"}  # noqa: SIM118 (an enum wrapper, not a dict)
    assert contract == set(Reason) == set(TABLE)


@pytest.mark.parametrize("reason", list(Reason))
def test_an_error_inside_a_reply_comes_back_as_the_same_class(reason: Reason) -> None:
    sent = error(reason, "what happened", value=3)
    received = from_proto(to_proto(sent))
    assert type(received) is type(sent)
    assert (received.reason, received.code, received.metadata) == (reason, TABLE[reason][0], {"value": "3"})


def test_only_unavailable_is_ever_retryable() -> None:
    assert {code for code, retryable in TABLE.values() if retryable} == {grpc.StatusCode.UNAVAILABLE}


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    classes = {cls.__name__ for cls in errors.WeftError.__subclasses__()}
    drawn = {line.split("── ")[1].split()[0] for line in (errors.__doc__ or "").splitlines() if "── " in line}
    assert drawn == classes


@pytest.mark.parametrize(
    ("details", "reason", "message"),
    [
        (
            "CLIENT: Sent message larger than max (4194384 vs. 4194304)",
            Reason.MESSAGE_TOO_LARGE,
            "the request has 4194384 bytes; a message may have 4194304: send less",
        ),
        (
            "SERVER: Received message larger than max (5 vs. 4)",
            Reason.MESSAGE_TOO_LARGE,
            "the request has 5 bytes; a message may have 4: send less",
        ),
        (
            "CLIENT: Received message larger than max (5 vs. 4)",
            Reason.MESSAGE_TOO_LARGE,
            "the reply has 5 bytes; a message may have 4: ask for less",
        ),
        ("Concurrent RPC limit exceeded!", Reason.OVERLOADED, "Concurrent RPC limit exceeded!"),
    ],
)
def test_what_grpc_itself_refuses_gets_a_reason_and_words(details: str, reason: Reason, message: str) -> None:
    bare = grpc.aio.AioRpcError(
        grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.aio.Metadata(), grpc.aio.Metadata(), details=details
    )
    err = from_rpc_error(bare)
    assert (type(err), err.reason, err.message) == (errors.ResourceExhausted, reason, message)


def test_a_used_up_quota_says_whose_it_is_and_when_it_is_worth_trying_again() -> None:
    status = errors.to_status(error(Reason.QUOTA_EXCEEDED, "none left", retry_after_s=2.5, subject="tenant:acme"))
    quota, retry = error_details_pb2.QuotaFailure(), error_details_pb2.RetryInfo()
    assert [detail.Unpack(quota) or detail.Unpack(retry) for detail in status.details] == [False, True, True]
    assert [(violation.subject, violation.description) for violation in quota.violations] == [
        ("tenant:acme", "none left")
    ]
    assert retry.retry_delay.ToMilliseconds() == 2_500
