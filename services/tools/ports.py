"""What the tools ask of the outside, and what the toolbox asks of a tool."""

from __future__ import annotations

from typing import Any, Protocol

from services.tools.types import Context, FoundPassages, Output, Scope


class ToolFunction(Protocol):
    """The work of a tool. It gets arguments that fit its input schema, may be cancelled at any await,
    and must not hold the event loop for more than a few milliseconds."""

    async def __call__(self, arguments: dict[str, Any], context: Context, /) -> Output:
        """Run once.

        Raises:
            BadArgument, ToolFailed, WeftError
        """
        ...


class DocumentFinder(Protocol):
    """Searches the caller's documents."""

    async def find(self, query: str, *, top_k: int, scope: Scope) -> FoundPassages:
        """The best passages in ``scope``; without a collection, in the default one.

        Raises:
            WeftError: what the search failed with.
        """
        ...
