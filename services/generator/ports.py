"""The one port of the generator: a model.

A backend is one file in `models/`, named by its URL's scheme, with a function

    def open(url: Url, surroundings: Surroundings = ALONE) -> Model

that checks the URL and returns at once. What must be loaded or connected, `start` does: the service is
not SERVING before it is done.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

from services.generator.types import Capabilities, ModelEvent, ModelLoad, Request


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a backend may use of its process."""

    api_keys: Mapping[str, str] = field(default_factory=dict)
    """Keys of servers, by host. Each goes to its host alone."""
    fail: Callable[[BaseException], None] = lambda failure: None
    """To be called when it can't be mended: the process goes NOT_SERVING and ends with 1."""


ALONE: Final = Surroundings()
"""Of a backend that nothing was given to."""


class Model(Protocol):
    """Something that answers. One object serves any number of calls at once."""

    @property
    def capabilities(self) -> Capabilities:
        """What it can do."""
        ...

    async def start(self) -> None:
        """Load, connect, warm up: whatever comes before the first answer."""
        ...

    def generate(self, request: Request) -> AsyncGenerator[ModelEvent, None]:
        """Answer: a Prompt where token ids are known, pieces, one End.

        Honours `sampling.stop` and `sampling.max_tokens`, and `resume` and `json_schema` where it declares that it
        can (it is not asked to otherwise). Closing the generator stops the work at once.

        Raises:
            WeftError: MODEL_UNAVAILABLE when the backend failed or went away, CONTEXT_TOO_LONG, INVALID_FIELD
                for what only the model can judge.
        """
        ...

    def load(self) -> ModelLoad:
        """How busy it is. Cheap: asked several times a second."""
        ...

    async def close(self) -> None:
        """Let go of everything."""
        ...
