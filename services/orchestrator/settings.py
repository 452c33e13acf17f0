"""Settings of the orchestrator."""

from __future__ import annotations

from typing import Final

from pydantic import BaseModel, Field, ValidationInfo, field_validator, model_validator

from mesh import plugins
from mesh.plugins import Url
from mesh.settings import ServiceSettings
from weft.errors import WeftError

SESSIONS: Final = "services.orchestrator.sessions"
PLANNERS: Final = "services.orchestrator.planners"


class OrchestratorOptions(BaseModel):
    """WEFT_ORCHESTRATOR__…"""

    sessions: str = Field(
        "", description="where sessions are kept, sqlite:///DIR; unset: WEFT_STORE, where that is one"
    )
    planner: str = Field("rules:", description="what decides which tools a question needs")
    session_ttl_s: float = Field(
        3_600, ge=60, le=86_400, description="seconds that an unused session is kept; 1,800 to 7,200 is usual"
    )
    session_max_turns: int = Field(500, ge=1, le=100_000, description="turns of a session before it is full")
    session_max_bytes: int = Field(
        8 * 1024 * 1024, ge=65_536, description="bytes of a session before it is full: questions, passages, answers"
    )
    history_turns: int = Field(6, ge=0, le=50, description="earlier turns that a new one is given")
    lease_s: float = Field(
        5.0, ge=2.0, le=60.0, description="seconds after which a turn whose replica died can be taken over"
    )
    stage_timeout_s: float = Field(25.0, gt=0, le=600, description="seconds for one stage of a turn at the most")
    tool_fan_out: int = Field(10, ge=1, le=100, description="tool calls of a turn under way at once")

    @field_validator("sessions", "planner")
    @classmethod
    def _known(cls, value: str, info: ValidationInfo) -> str:
        package = SESSIONS if info.field_name == "sessions" else PLANNERS
        if not value and package == SESSIONS:
            return value
        try:
            scheme = Url.parse(value).scheme
        except WeftError as err:
            raise ValueError(err.message) from None
        known = plugins.available(package)
        if scheme.replace("+", "_").replace("-", "_") not in known:
            raise ValueError(f"{scheme}: is not known here; there are: {', '.join(known)}")
        return value


class Settings(ServiceSettings):
    """What an orchestrator process reads."""

    orchestrator: OrchestratorOptions = OrchestratorOptions()

    @property
    def sessions_url(self) -> Url:
        """Where sessions are kept."""
        return Url.parse(self.orchestrator.sessions or self.store)

    @model_validator(mode="after")
    def _sessions_have_a_place(self) -> Settings:
        known = plugins.available(SESSIONS)
        scheme = self.store.partition(":")[0]
        if not self.orchestrator.sessions and scheme not in known:
            raise ValueError(
                f"WEFT_ORCHESTRATOR__SESSIONS is unset and WEFT_STORE is {scheme}:, which keeps no sessions (known: "
                f"{', '.join(known)}); set it to sqlite:///DIR, a directory that the orchestrators of a machine share"
            )
        return self
