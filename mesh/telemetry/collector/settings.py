"""The collector's settings: ``WEFT_COLLECTOR__*``, and what all processes share."""

from __future__ import annotations

from pydantic import BaseModel, Field, field_validator

from mesh.settings import ServiceSettings


class CollectorOptions(BaseModel):
    """Bounds of what is kept. Whichever is reached first makes the oldest traces go."""

    max_traces: int = Field(1_000, ge=1, le=100_000, description="traces kept")
    max_spans_per_trace: int = Field(1_000, ge=1, le=10_000, description="spans kept of one trace; later ones go")
    max_trace_bytes: int = Field(1024 * 1024, ge=65_536, description="bytes kept of one trace; later spans go")
    max_bytes: int = Field(64 * 1024 * 1024, ge=1024 * 1024, description="bytes kept of all traces")


class Settings(ServiceSettings):
    """What the collector reads."""

    port: int = Field(4317, ge=0, le=65535, description="port of OTLP and of TraceService; 0 takes a free one")
    collector: CollectorOptions = CollectorOptions()

    @field_validator("otlp_endpoint")
    @classmethod
    def _not_to_itself(cls, value: str) -> str:
        return ""  # the variable is meant for those who send; the collector's own spans stay at home
