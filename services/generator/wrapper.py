"""What the wrappers of a model share: they change how it is asked, and leave the rest to it.

    accounted(cached(admitted(guarded(model))))

is how `wiring.py` puts them around each.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator

from services.generator.ports import Model
from services.generator.types import Capabilities, ModelEvent, ModelLoad, Request


class Wrapper:
    """A model around another one. Subclasses override what they change."""

    def __init__(self, model: Model) -> None:
        self._model = model

    @property
    def capabilities(self) -> Capabilities:
        """The model's."""
        return self._model.capabilities

    async def start(self) -> None:
        """Start the model."""
        await self._model.start()

    def generate(self, request: Request) -> AsyncGenerator[ModelEvent, None]:
        """The model's answer."""
        return self._model.generate(request)

    def load(self) -> ModelLoad:
        """The model's."""
        return self._model.load()

    async def close(self) -> None:
        """Close the model."""
        await self._model.close()
