"""Settings of admission: WEFT_GENERATOR__…"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Annotated, Any, Final

from pydantic import BaseModel, BeforeValidator, Field, field_validator
from pydantic_settings import NoDecode

from mesh import plugins
from mesh.plugins import Url
from services.generator.admission.rules import ANY, BUDGETS
from weft.errors import WeftError

LEDGERS: Final = "services.generator.admission.ledgers"
MAX_TOKENS: Final = 10**15
MAX_MONEY: Final = 10**9


def _read(example: str) -> Callable[[object], object]:
    """A reader of JSON objects, or of one number for all, that shows what they look like."""

    def read(value: object) -> object:
        if not isinstance(value, str):
            return value
        try:
            found: Any = json.loads(value)
        except ValueError as err:
            raise ValueError(f"is no JSON ({err}); an example is {example}") from None
        return {ANY: found} if type(found) is int else found

    return read


_MAX_RUNNING: Final = '{"llama": 32, "*": 64}'
_RATES: Final = '{"*": 60000, "acme": 200000, "*/llama": 30000}'
_BUDGETS: Final = '{"*": {"tokens_per_day": 1000000}, "acme": {"money_per_month": 250}}'


class AdmissionOptions(BaseModel):
    """Who is let in to the models, and when."""

    max_running: Annotated[dict[str, int], NoDecode, BeforeValidator(_read(_MAX_RUNNING))] = Field(
        {},
        description="answers that run at once, a number or a JSON object by model's name, * for the others; the rest "
        "waits; 0: any number. Unset: any number of extractive: and scripted:, 256 of vllm:, 64 of others",
    )
    max_waiting: int = Field(256, ge=0, le=100_000, description="requests that may wait for each model")
    max_waiting_tokens: int = Field(
        1_000_000, ge=1, le=10**12, description="tokens that the waiting requests of a model may stand for"
    )
    limits: str = Field(
        "memory:",
        description="where tenants' use is counted: memory: (each replica by itself), redis://host:port/database",
    )
    tokens_per_minute: Annotated[dict[str, int | None], NoDecode, BeforeValidator(_read(_RATES))] = Field(
        {},
        description="limits, a number or a JSON object by TENANT and TENANT/MODEL, * for each other tenant: "
        f"{_RATES}; unset: none",
    )
    budgets: Annotated[dict[str, dict[str, float]], NoDecode, BeforeValidator(_read(_BUDGETS))] = Field(
        {},
        description=f"what tenants may use in a day or a month (UTC), as a JSON object by tenant, * for each other: "
        f"any of {', '.join(BUDGETS)}; unset: none",
    )

    @field_validator("max_running")
    @classmethod
    def _running(cls, given: dict[str, int]) -> dict[str, int]:
        for name, number in given.items():
            if not 0 <= number <= 100_000:
                raise ValueError(f"{name}: is {number}; allowed is 0 to 100000")
        return given

    @field_validator("limits")
    @classmethod
    def _storage(cls, given: str) -> str:
        try:
            scheme = Url.parse(given).scheme
        except WeftError as err:
            raise ValueError(err.message) from None
        known = plugins.available(LEDGERS)
        if scheme not in known:
            raise ValueError(f"{scheme}: is not known here; there are: {', '.join(known)}")
        return given

    @field_validator("tokens_per_minute")
    @classmethod
    def _rates(cls, given: dict[str, int | None]) -> dict[str, int | None]:
        for name, number in given.items():
            if number is not None and not 1 <= number <= MAX_TOKENS:
                raise ValueError(f"{name}: is {number}; allowed is 1 to {MAX_TOKENS}, and null for no limit")
            if name.endswith("/" + ANY) or name.count("/") > 1:
                raise ValueError(f"{name[:80]!r} is neither TENANT nor TENANT/MODEL; an example is {_RATES}")
        return given

    @field_validator("budgets")
    @classmethod
    def _known_budgets(cls, given: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
        for tenant, budget in given.items():
            if "/" in tenant:
                raise ValueError(f"{tenant[:80]!r} is no TENANT: budgets are a tenant's, whatever the model")
            for quota, amount in budget.items():
                high = MAX_TOKENS if quota.startswith("tokens") else MAX_MONEY
                if quota not in BUDGETS:
                    raise ValueError(f"{tenant}: {quota!r} is no budget; there are: {', '.join(BUDGETS)}")
                if not 0 < amount <= high:
                    raise ValueError(f"{tenant}: {quota} is {amount:g}; allowed is above 0, to {high}")
        return given

    def check_against(self, models: Iterable[str], *, priced: bool) -> None:
        """Check what depends on other settings.

        Raises:
            ValueError: a model that isn't there is named, or money is to be counted and nothing has a price.
        """
        known = {ANY, *models}
        rated = [name.partition("/")[2] for name in self.tokens_per_minute if "/" in name]
        for setting, names in (("max_running", list(self.max_running)), ("tokens_per_minute", rated)):
            for name in names:
                if name not in known:
                    raise ValueError(f"{setting}: there is no model {name[:64]!r}; there are: {', '.join(models)}")
        if not priced and any(quota.startswith("money") for budget in self.budgets.values() for quota in budget):
            raise ValueError("budgets: money can be counted only where WEFT_GENERATOR__PRICES says what models cost")
