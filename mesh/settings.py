"""Settings that every process of the mesh shares, and how they are read.

Values come from the environment: ``WEFT_<NAME>`` for what all processes share and
``WEFT_<SERVICE>__<NAME>`` for one service's own (Kubernetes' service links never produce the double
underscore). pydantic-settings passes over misspelt names in silence, so ``load`` looks for unclaimed
``WEFT_`` names itself and refuses to start: a typo must not run as a default.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Final, Literal, TypeVar

from pydantic import BaseModel, Field, ValidationError, field_validator
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from mesh.plugins import SECRET, Url
from weft.errors import Reason, WeftError, error
from weft.settings import address_problem

PREFIX: Final = "WEFT_"
# Groups of names that belong to one process or service. Other services' groups are let through: one
# environment may configure the whole mesh.
GROUPS: Final = ("RETRIEVER", "GENERATOR", "TOOLS", "ORCHESTRATOR", "CONTROLPLANE", "COLLECTOR")
_FOREIGN_PREFIXES: Final = ("WEFT_TEST_", "WEFT_BENCH_", "WEFT_CLI_")


class LoadWeights(BaseModel):
    """How much each figure counts in the load that the balancer sees: their weighted mean."""

    cpu: float = Field(0.4, ge=0, description="weight of the process's CPU use, as a share of the cores")
    pending: float = Field(0.6, ge=0, description="weight of calls under way, as a share of pending_full")
    gpu_memory: float = Field(0.8, ge=0, description="weight of used GPU memory, as a share; no backend tells it yet")
    pending_full: int = Field(64, ge=1, description="calls under way that count as a full replica")
    report_interval_s: float = Field(1.0, ge=0.1, le=60, description="seconds between out-of-band load reports")


class ServiceSettings(BaseSettings):
    """What every service process reads. Unset values have working defaults for one machine."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_nested_delimiter="__", extra="ignore", frozen=True)

    mesh: Annotated[tuple[str, ...], NoDecode] = Field(
        ("127.0.0.1:9500",), description="control planes, host:port, separated by commas; tried in order"
    )
    registry: str = Field("builtin:", description="where instances announce themselves: builtin:, consul://host:port")
    target: str = Field("xds:///{service}", description="how a service is dialled; {service} is replaced")
    store: str = Field(
        "sqlite:///.weft",
        description="what replicas share: sqlite:///DIR, postgresql://user:password@host/database (all but sessions: "
        "see WEFT_ORCHESTRATOR__SESSIONS)",
    )
    data_dir: str = Field(
        "",
        description="directory of what a machine keeps for itself: snapshots, the built-in registry; unset: the "
        "store's, where that is a directory, else .weft",
    )
    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(0, ge=0, le=65535, description="gRPC port to listen on; 0 takes a free one")
    metrics_port: int = Field(0, ge=0, le=65535, description="port of /metrics and /healthz; 0 takes a free one")
    advertise: str = Field("", description="IP address that others dial; unset: the one listened on")
    version: str = Field("v1", pattern=r"^[a-zA-Z0-9][a-zA-Z0-9._-]{0,62}$", description="version label for routes")
    zone: str = Field("", max_length=63, description="zone for zone-aware routing")
    tags: Annotated[tuple[str, ...], NoDecode] = Field((), description="capability tags, separated by commas")
    instance_id: str = Field("", max_length=128, description="unique id of the process; unset: made at start")
    default_deadline_s: float = Field(30.0, gt=0, le=3600, description="deadline of calls that bring none, seconds")
    max_concurrent_calls: int = Field(2000, ge=1, description="calls under way before new ones are refused")
    max_message_bytes: int = Field(4 * 1024 * 1024, ge=65_536, description="largest message taken or sent, bytes")
    drain_travel_s: float = Field(1.0, ge=0, le=60, description="seconds between deregistering and refusing calls")
    drain_grace_s: float = Field(10.0, ge=0, le=600, description="seconds that running calls get to finish")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="least severe log line")
    log_format: Literal["auto", "json", "console"] = Field("auto", description="auto: console on a terminal")
    load: LoadWeights = LoadWeights()
    otlp_endpoint: str = Field(
        "", validation_alias="OTEL_EXPORTER_OTLP_ENDPOINT", description="OTLP gRPC collector; unset: no export"
    )

    @field_validator("mesh", "tags", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(v.strip() for v in value.split(",") if v.strip()) if isinstance(value, str) else value

    @field_validator("mesh")
    @classmethod
    def _addresses(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for address in value:
            if problem := address_problem(address):
                raise ValueError(problem)
        if not value:
            raise ValueError("names no control plane")
        return value

    @field_validator("advertise")
    @classmethod
    def _ip_address(cls, value: str) -> str:
        try:
            return str(ipaddress.ip_address(value)) if value else ""
        except ValueError:
            raise ValueError("not an IP address; endpoints in xDS have no names") from None

    @property
    def listen(self) -> tuple[str, int]:
        """Host and port that the gRPC server binds."""
        return self.host, self.port

    @property
    def local_dir(self) -> Path:
        """Directory of what a machine keeps for itself.

        Raises:
            WeftError: INVALID_FIELD where the store is a malformed ``sqlite:`` URL.
        """
        if self.data_dir:
            return Path(self.data_dir).expanduser()
        url = Url.parse(self.store)
        return directory_of(url) if url.scheme == "sqlite" else Path(".weft")


def directory_of(url: Url) -> Path:
    """The directory that ``sqlite:///DIR`` (relative) or ``sqlite:////DIR`` (absolute) names.

    Raises:
        WeftError: INVALID_FIELD where the URL is neither.
    """
    if url.scheme != "sqlite" or url.host or len(url.path) < 2:
        raise error(
            Reason.INVALID_FIELD,
            f"{str(url)!r} is not a directory's store; expected sqlite:///DIR (relative) or sqlite:////DIR (absolute)",
            value=url,
        )
    return Path(url.path[1:]).expanduser()


S = TypeVar("S", bound=BaseSettings)


def load(settings_class: type[S], environ: Mapping[str, str] | None = None) -> S:
    """Read and check the settings of one process.

    Raises:
        WeftError: INVALID_FIELD naming every variable at fault, what it holds and what is allowed.
    """
    names = os.environ if environ is None else environ
    problems = [_unknown(name, settings_class) for name in unclaimed(settings_class, names)]
    settings = None
    try:
        settings = settings_class()
    except ValidationError as exc:
        problems += [_explain(item, settings_class) for item in exc.errors(include_url=False)]
    if problems or settings is None:
        raise error(Reason.INVALID_FIELD, "the configuration is invalid:\n  " + "\n  ".join(problems))
    return settings


def claimed(settings_class: type[BaseSettings]) -> dict[str, str]:
    """Every variable that ``settings_class`` reads, with its description."""
    found: dict[str, str] = {}
    for name, info in settings_class.model_fields.items():
        annotation = info.annotation
        if isinstance(info.validation_alias, str):
            found[info.validation_alias] = info.description or ""
        elif isinstance(annotation, type) and issubclass(annotation, BaseModel):
            for inner, inner_info in annotation.model_fields.items():
                found[f"{PREFIX}{name}__{inner}".upper()] = inner_info.description or ""
        else:
            found[f"{PREFIX}{name}".upper()] = info.description or ""
    return found


def unclaimed(settings_class: type[BaseSettings], environ: Mapping[str, str]) -> list[str]:
    """``WEFT_`` names in the environment that nobody reads."""
    mine = claimed(settings_class)
    own_groups = {name.upper() for name in settings_class.model_fields}
    others = tuple(f"{PREFIX}{group}__" for group in GROUPS if group not in own_groups)
    return sorted(
        name
        for name in environ
        if name.startswith(PREFIX) and name not in mine and not name.startswith(others + _FOREIGN_PREFIXES)
    )


def _unknown(name: str, settings_class: type[BaseSettings]) -> str:
    near = get_close_matches(name, claimed(settings_class), n=1)
    hint = f"; did you mean {near[0]}?" if near else "; `weft config print` lists those there are"
    return f"{name} is not a setting{hint}"


def _explain(item: ErrorDetails, settings_class: type[BaseSettings]) -> str:
    path = [str(part) for part in item["loc"]]
    if not path:  # of several settings together
        return item["msg"].removeprefix("Value error, ")
    info = settings_class.model_fields.get(path[0])
    alias = info.validation_alias if info is not None and isinstance(info.validation_alias, str) else None
    name = alias or path[0] if path[0].isupper() else PREFIX + "__".join(path).upper()
    secret = any(SECRET.search(part) for part in name.split("__"))
    given = "hidden" if secret else repr(str(_mask(item.get("input")))[:60])
    return f"{name}: {item['msg']} (is {given})"


def masked(settings: BaseSettings) -> dict[str, object]:
    """The settings for printing: URLs without their secrets."""
    return {name: _mask(value) for name, value in settings.model_dump(mode="json").items()}


def _mask(value: object) -> object:
    if isinstance(value, dict):
        return {key: _mask(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_mask(inner) for inner in value]
    if isinstance(value, str) and "://" in value:
        try:
            return str(Url.parse(value))
        except WeftError:
            return "***"
    return value
