"""Settings of the generator."""

from __future__ import annotations

import json
import re
from typing import Annotated, Final

from pydantic import Field, SecretStr, ValidationInfo, field_validator, model_validator
from pydantic_settings import NoDecode

from mesh import plugins
from mesh.plugins import Url
from mesh.settings import ServiceSettings
from services.generator.admission.settings import AdmissionOptions
from services.generator.prices import Price, check, parse
from weft.errors import WeftError

MODELS: Final = "services.generator.models"
CACHES: Final = "services.generator.caching.stores"
_EXAMPLES: Final = {"models": '{"extractive": "extractive:"}', "template_weights": '{"default": {"1": 90, "2": 10}}'}
_NAME: Final = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._-]{0,62}")


class GeneratorOptions(AdmissionOptions):
    """WEFT_GENERATOR__…"""

    models: Annotated[dict[str, str], NoDecode] = Field(
        {"extractive": "extractive:"},
        description="models as a JSON object of names and URLs, in fallback order; the first is the default",
    )

    api_keys: Annotated[dict[str, SecretStr], NoDecode] = Field(
        {}, description="keys of model servers: host=key, separated by commas; each is sent to its host alone"
    )

    templates: str = Field(
        "", description="directory of prompt templates (*.jinja), read beside the built-in ones: docs/generator.md"
    )
    template_weights: Annotated[dict[str, dict[str, int]], NoDecode] = Field(
        {},
        description="which versions of a template are current, in per cent, as a JSON object: "
        '{"default": {"1": 90, "2": 10}}; unset: the newest',
    )

    cache: str = Field(
        "",
        description="where answers are kept for requests that allow it: memory:?max_bytes=67108864, "
        "redis://host:port/database; unset: nowhere",
    )
    cache_ttl_s: float = Field(3_600.0, gt=0, le=2_592_000, description="seconds that an answer is kept")

    kv_cache_weight: float = Field(
        1.0, ge=0, description="weight of the fullest KV cache in the load that the balancer sees, beside WEFT_LOAD__*"
    )

    prices: Annotated[dict[str, Price], NoDecode] = Field(
        {},
        description="what models cost per million tokens, as a JSON object: "
        '{"gpt": {"input": 2.5, "cached": 1.25, "output": 10, "currency": "USD"}}',
    )
    record_content: bool = Field(
        False, description="put prompts and answers on spans; whoever reads the traces then reads them"
    )

    @field_validator("prices", mode="before")
    @classmethod
    def _prices(cls, value: object) -> object:
        given = parse(value) if isinstance(value, str) else value
        return {name: check(name, price) for name, price in given.items()} if isinstance(given, dict) else given

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

    @field_validator("models", "template_weights", mode="before")
    @classmethod
    def _decode(cls, value: object, info: ValidationInfo) -> object:
        if not isinstance(value, str):
            return value
        try:
            return json.loads(value)
        except ValueError as err:
            example = _EXAMPLES[info.field_name or ""]
            raise ValueError(f"is no JSON object ({err}); an example is {example}") from None

    @field_validator("cache")
    @classmethod
    def _known_cache(cls, cache: str) -> str:
        if cache:
            _check_scheme(cache, CACHES, "cache")
        return cache

    @field_validator("template_weights")
    @classmethod
    def _per_cent(cls, weights: dict[str, dict[str, int]]) -> dict[str, dict[str, int]]:
        for name, versions in weights.items():
            if sum(versions.values()) != 100 or not all(0 <= weight <= 100 for weight in versions.values()):
                raise ValueError(f"the weights of {name!r} are not 0 to 100, in all 100")
        return weights

    @field_validator("models")
    @classmethod
    def _check(cls, models: dict[str, str]) -> dict[str, str]:
        if not models:
            raise ValueError(f"names no model; an example is {_EXAMPLES['models']}")
        for name, url in models.items():
            if not _NAME.fullmatch(name):
                raise ValueError(f"{name[:64]!r} is no name for a model: 1 to 63 of letters, digits, . _ -")
            try:
                _check_scheme(url, MODELS, "model")
            except ValueError as err:
                raise ValueError(f"{name}: {err}") from None
        return models

    @model_validator(mode="after")
    def _prices_are_of_models(self) -> GeneratorOptions:
        for name in self.prices:
            if name not in self.models:
                raise ValueError(f"prices: there is no model {name!r}; there are: {', '.join(self.models)}")
        if len({price.currency for price in self.prices.values()}) > 1:
            raise ValueError("prices: there are several currencies; a table has one, or its sums would mean nothing")
        return self

    @model_validator(mode="after")
    def _admission_fits(self) -> GeneratorOptions:
        self.check_against(self.models, priced=bool(self.prices))
        return self

    @model_validator(mode="after")
    def _templates_are_good(self) -> GeneratorOptions:
        if self.templates or self.template_weights:
            from services.generator.templates.library import open_templates

            try:
                open_templates(self.templates, self.template_weights)
            except WeftError as err:
                raise ValueError(err.message) from None
        return self


def _check_scheme(url: str, package: str, kind: str) -> None:
    try:
        scheme = Url.parse(url).scheme
    except WeftError as err:
        raise ValueError(err.message) from None
    known = plugins.available(package)
    if scheme.replace("+", "_").replace("-", "_") not in known:
        raise ValueError(f"{scheme}: is no kind of {kind} here; there are: {', '.join(known)}")


class Settings(ServiceSettings):
    """What a generator process reads."""

    generator: GeneratorOptions = GeneratorOptions()
