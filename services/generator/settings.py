"""Settings of the generator."""

from __future__ import annotations

import re
from typing import Final

from pydantic import BaseModel, Field, field_validator

from mesh.plugins import Url
from mesh.settings import ServiceSettings
from weft.errors import WeftError

_NAME: Final = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._-]{0,62}")


class GeneratorOptions(BaseModel):
    """WEFT_GENERATOR__…"""

    models: dict[str, str] = Field(
        {"extractive": "extractive:"},
        description="models as a JSON object of names and URLs, in fallback order; the first is the default",
    )

    @field_validator("models")
    @classmethod
    def _check(cls, models: dict[str, str]) -> dict[str, str]:
        if not models:
            raise ValueError('names no model; an example is {"extractive": "extractive:"}')
        for name, url in models.items():
            if not _NAME.fullmatch(name):
                raise ValueError(f"{name[:64]!r} is no name for a model: 1 to 63 of letters, digits, . _ -")
            try:
                Url.parse(url)
            except WeftError as err:
                raise ValueError(err.message) from None
        return models


class Settings(ServiceSettings):
    """What a generator process reads."""

    generator: GeneratorOptions = GeneratorOptions()
