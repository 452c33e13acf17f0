"""Why a request isn't let in."""

from __future__ import annotations

from enum import StrEnum


class Why(StrEnum):
    """`why` in the metadata of the error, and the label of the metric."""

    FULL = "full"
    LATE = "late"
    EXPIRED = "expired"
    DISPLACED = "displaced"
    RATE = "rate"
    BUDGET = "budget"
