"""Settings of the tool service: ``WEFT_TOOLS__<NAME>``, beside those that every service has."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import BaseModel, Field, field_validator
from pydantic_settings import NoDecode

from mesh import plugins
from mesh.settings import ServiceSettings

BUILTIN: Final = "services.tools.builtin"


class ToolsOptions(BaseModel):
    """What the tool service reads for itself."""

    builtin: Annotated[tuple[str, ...], NoDecode] = Field(
        ("all",), description="built-in tools to offer, names separated by commas; all: every one there is"
    )

    @field_validator("builtin", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(v.strip() for v in value.split(",") if v.strip()) if isinstance(value, str) else value

    @field_validator("builtin")
    @classmethod
    def _known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        there = plugins.available(BUILTIN)
        for name in value:
            if name != "all" and name not in there:
                raise ValueError(f"{name!r} is no built-in tool; there are: all, {', '.join(there)}")
        return value

    @property
    def names(self) -> list[str]:
        """The tools to offer, each once."""
        return plugins.available(BUILTIN) if "all" in self.builtin else sorted(set(self.builtin))


class Settings(ServiceSettings):
    """All settings of a tools process."""

    tools: ToolsOptions = ToolsOptions()
