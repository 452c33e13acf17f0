"""Answers a request with one of the operator's models.

    pick by name -> the model's first piece -> Started, pieces coalesced, Finished
         └── failed before its first piece -> the next model in the operator's order, noted in `degraded`

Nothing is sent before the first piece is there. Until then another model can still answer, and so can another
replica: the mesh repeats a call whose server died before its first byte. After it a failure is the caller's to
know; it may resume where the model can continue. An answer is resumed by the model that began it or not at all.

A prompt template is chosen once for a request, and applied for each model that doesn't read passages itself; what such
a model writes is searched for citations.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import replace
from typing import Final

from services.generator.citing import cited
from services.generator.coalesce import coalesced
from services.generator.ports import Model
from services.generator.templates.file import Template
from services.generator.templates.library import Templates, render
from services.generator.types import (
    Event,
    Finished,
    ModelInfo,
    Piece,
    Prompt,
    Request,
    Started,
)
from weft.errors import Reason, WeftError, error
from weft.values import Degradation

COALESCE_INTERVAL_S: Final = 0.05
COALESCE_AT_MOST_S: Final = 0.25
PIECES_PER_S: Final = 320
"""Of all answers together. To write one takes some 0.1 ms of a processor, whatever is in it: with many answers at once
each gets larger pieces less often, up to COALESCE_AT_MOST_S apart."""
FALLBACK_REASONS: Final = frozenset({Reason.MODEL_UNAVAILABLE, Reason.DEPENDENCY_UNAVAILABLE})

_log = logging.getLogger(__name__)


class Generator:
    """Owns the models. One object serves any number of calls at once."""

    def __init__(
        self,
        models: Mapping[str, Model],
        templates: Templates | None = None,
        *,
        coalesce_interval_s: float = COALESCE_INTERVAL_S,
    ) -> None:
        """Take the models by name, in fallback order; the first is the default. Without templates every model is given
        requests as they come."""
        self._models = dict(models)
        self._templates = templates
        self._coalesce_interval_s = coalesce_interval_s
        self._streaming = 0  # answers that have begun to come

    def models(self) -> list[ModelInfo]:
        """Return the models in fallback order."""
        return [
            ModelInfo(name, model.capabilities, index == 0) for index, (name, model) in enumerate(self._models.items())
        ]

    async def generate(self, request: Request) -> AsyncGenerator[Event, None]:
        """Yield Started, pieces, one Finished. Closing the generator stops the model.

        Raises:
            WeftError: MODEL_NOT_FOUND, TEMPLATE_NOT_FOUND, RESUME_UNSUPPORTED, INVALID_FIELD, what the model raises.
        """
        ladder = self._ladder(request)
        template = self._templates.choose(request) if self._templates is not None else None
        degraded: list[Degradation] = []
        for step, name in enumerate(ladder):
            begun = False
            try:
                async with aclosing(self._answer(name, request, template, tuple(degraded))) as events:
                    async for event in events:
                        begun = True
                        yield event
                return
            except WeftError as err:
                if begun or step + 1 == len(ladder) or err.reason not in FALLBACK_REASONS:
                    raise
                following = ladder[step + 1]
                _log.warning("model %s failed before its first token, %s answers: %s", name, following, err)
                degraded.append(Degradation("generation", err.reason, f"model:{following}", f"{name}: {err.message}"))

    def _ladder(self, request: Request) -> list[str]:
        """Return the names of the models to try, in order."""
        names = list(self._models)
        name = request.model or names[0]
        if name not in self._models:
            raise error(
                Reason.MODEL_NOT_FOUND,
                f"there is no model {name!r}; there are: {', '.join(names)}. Leave `model` empty for {names[0]!r}",
                field="model",
                model=name,
                models=",".join(names),
            )
        capabilities = self._models[name].capabilities
        if request.resume is not None:
            if not capabilities.can_resume:
                raise error(
                    Reason.RESUME_UNSUPPORTED,
                    f"model {name!r} ({capabilities.backend}:) can't continue an interrupted answer; "
                    "ask again without `resume`",
                    model=name,
                    backend=capabilities.backend,
                )
            return [name]
        if request.json_schema is None:
            return names[names.index(name) :]
        able = [other for other in names if self._models[other].capabilities.json_schema]
        if name not in able:
            raise error(
                Reason.INVALID_FIELD,
                f"response_format: model {name!r} ({capabilities.backend}:) can't hold its output to a JSON Schema; "
                + (f"these can: {', '.join(able)}" if able else "no model here can; leave response_format unset"),
                field="response_format.json_schema",
                model=name,
                models=",".join(able),
            )
        return able[able.index(name) :]

    async def _answer(
        self, name: str, request: Request, template: Template | None, degraded: tuple[Degradation, ...]
    ) -> AsyncGenerator[Event, None]:
        model = self._models[name]
        request = replace(request, piece_interval_s=self._piece_interval_s())
        started = Started(name, model.capabilities)
        if template is None or model.capabilities.reads_passages:
            answer = model.generate(request)
        else:
            started = replace(started, template=template.name, template_version=template.version)
            answer = cited(model.generate(render(template, request)), request)
        begun = False
        try:
            async with aclosing(coalesced(answer, self._piece_interval_s)) as events:
                async for event in events:
                    if isinstance(event, Prompt):
                        started = replace(started, prompt_token_ids=event.token_ids)
                        continue
                    if not begun:
                        begun = True
                        self._streaming += 1
                        yield started
                    if isinstance(event, Piece):
                        yield event
                    else:
                        yield Finished(event, degraded)
                        return
        finally:
            self._streaming -= begun
        raise error(Reason.INTERNAL, f"model {name!r} stopped without saying why", model=name)

    def _piece_interval_s(self) -> float:
        """How far apart the pieces of an answer are now."""
        if not self._coalesce_interval_s:
            return 0.0
        return max(self._coalesce_interval_s, min(COALESCE_AT_MOST_S, self._streaming / PIECES_PER_S))
