"""What the logs agree on about batches that were staged and never published."""

from __future__ import annotations

from typing import Final

from weft.errors import Reason, WeftError, error

STAGED_LIFE_S: Final = 3_600.0  # after that, a batch that was never published is swept
SWEEP_ROWS: Final = 200  # at most in one transaction


def swept() -> WeftError:
    """The error of who comes back to a batch too late."""
    return error(
        Reason.DEPENDENCY_UNAVAILABLE,
        f"the staged content of a document was swept after {STAGED_LIFE_S:.0f} s; send the document again",
        staged_life_s=STAGED_LIFE_S,
    )
