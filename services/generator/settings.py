"""Settings of the generator."""

from __future__ import annotations

import json
import re
from typing import Annotated, Final

from pydantic import BaseModel, Field, SecretStr, field_validator
from pydantic_settings import NoDecode

from mesh import plugins
from mesh.plugins import Url
from mesh.settings import ServiceSettings
from weft.errors import WeftError

MODELS: Final = "services.generator.models"
_EXAMPLE: Final = '{"extractive": "extractive:"}'
_NAME: Final = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._-]{0,62}")


class GeneratorOptions(BaseModel):
    """WEFT_GENERATOR__…"""

    models: Annotated[dict[str, str], NoDecode] = Field(
        {"extractive": "extractive:"},
        description="models as a JSON object of names and URLs, in fallback order; the first is the default",
    )

    api_keys: Annotated[dict[str, SecretStr], NoDecode] = Field(
        {}, description="keys of model servers: host=key, separated by commas; each is sent to its host alone"
    )

    @field_validator("api_keys", mode="before")
    @classmethod
    def _keys(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        pairs = [(host.strip(), key.strip()) for host, _, key in (pair.partition("=") for pair in value.split(","))]
        given = [(host, key) for host, key in pairs if host or key]
        if not all(host and key and key.isascii() and key.isprintable() for host, key in given):
            raise ValueError("is not host=key,host=key, keys in ASCII")
        return dict(given)

    @field_validator("models", mode="before")
    @classmethod
    def _decode(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        try:
            return json.loads(value)
        except ValueError as err:
            raise ValueError(f"is no JSON object ({err}); an example is {_EXAMPLE}") from None

    @field_validator("models")
    @classmethod
    def _check(cls, models: dict[str, str]) -> dict[str, str]:
        if not models:
            raise ValueError(f"names no model; an example is {_EXAMPLE}")
        for name, url in models.items():
            if not _NAME.fullmatch(name):
                raise ValueError(f"{name[:64]!r} is no name for a model: 1 to 63 of letters, digits, . _ -")
            try:
                scheme = Url.parse(url).scheme
            except WeftError as err:
                raise ValueError(f"{name}: {err.message}") from None
            known = plugins.available(MODELS)
            if scheme.replace("+", "_").replace("-", "_") not in known:
                raise ValueError(f"{name}: {scheme}: is no kind of model here; there are: {', '.join(known)}")
        return models


class Settings(ServiceSettings):
    """What a generator process reads."""

    generator: GeneratorOptions = GeneratorOptions()
