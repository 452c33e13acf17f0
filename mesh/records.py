"""The instance record outside of the process: as protobuf on the wire, as JSON in a store.

Both directions of both forms stand here once. What comes in may have been written by anybody, so
``check`` bounds every field before the record goes anywhere.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

from mesh.registry import Instance, Method
from mesh.validation import check_name, check_range, check_text, invalid
from weft.mesh.v1 import registry_pb2

SERVICE_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
VERSION_LABEL: Final = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._-]{0,62}")
_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")
_METHOD_PATH: Final = re.compile(r"/[A-Za-z0-9_.]+/[A-Za-z0-9_]+")
_MAX_TAGS: Final = 64
_MAX_METHODS: Final = 256
_IDEMPOTENT: Final = (registry_pb2.IDEMPOTENCY_IDEMPOTENT, registry_pb2.IDEMPOTENCY_NO_SIDE_EFFECTS)


def check_service(field: str, value: str) -> str:
    """Accept a service name. Raises INVALID_FIELD."""
    check_name(field, value, SERVICE_NAME, "retriever")
    return value


def check(instance: Instance) -> Instance:
    """Accept a record whose every field is in bounds.

    Raises:
        WeftError: INVALID_FIELD.
    """
    check_service("instance.service", instance.service)
    check_name("instance.id", instance.id, _ID, "retriever-0f3a")
    check_text("instance.host", instance.host, max_chars=253, allow_newlines=False)
    check_range("instance.port", instance.port, 1, 65_535)
    check_range("instance.metrics_port", instance.metrics_port, 0, 65_535)
    check_name("instance.version", instance.version, VERSION_LABEL, "v1")
    check_text("instance.zone", instance.zone, max_chars=63, min_chars=0, allow_newlines=False)
    if len(instance.tags) > _MAX_TAGS:
        raise invalid("instance.tags", f"has {len(instance.tags)} tags; at most {_MAX_TAGS} are allowed")
    for tag in instance.tags:
        check_text("instance.tags", tag, max_chars=128, allow_newlines=False)
    if len(instance.methods) > _MAX_METHODS:
        raise invalid("instance.methods", f"has {len(instance.methods)} methods; at most {_MAX_METHODS} are allowed")
    for method in instance.methods:
        check_name("instance.methods.path", method.path, _METHOD_PATH, "/package.Service/Method")
    return instance


def to_proto(instance: Instance) -> registry_pb2.Instance:
    """The record as it travels."""
    message = registry_pb2.Instance(
        service=instance.service,
        id=instance.id,
        host=instance.host,
        port=instance.port,
        metrics_port=instance.metrics_port,
        version=instance.version,
        zone=instance.zone,
        tags=instance.tags,
    )
    for method in instance.methods:
        level = registry_pb2.IDEMPOTENCY_IDEMPOTENT if method.idempotent else registry_pb2.IDEMPOTENCY_UNSPECIFIED
        message.methods.add(path=method.path, idempotency=level)
    message.start_time.FromMilliseconds(round(instance.started_unix_s * 1_000))
    return message


def from_proto(message: registry_pb2.Instance) -> Instance:
    """The record that came in, unchecked."""
    return Instance(
        service=message.service,
        id=message.id,
        host=message.host,
        port=message.port,
        metrics_port=message.metrics_port,
        version=message.version or "v1",
        zone=message.zone,
        tags=tuple(message.tags),
        methods=tuple(Method(m.path, m.idempotency in _IDEMPOTENT) for m in message.methods),
        started_unix_s=message.start_time.ToMilliseconds() / 1_000,
    )


def methods_to_json(methods: tuple[Method, ...]) -> str:
    """A method table, compact: ``{"package.Service": {"Method": 1}}``, 1 for idempotent."""
    table: dict[str, dict[str, int]] = {}
    for method in methods:
        service, _, name = method.path.removeprefix("/").partition("/")
        table.setdefault(service, {})[name] = int(method.idempotent)
    return json.dumps(table, separators=(",", ":"))


def methods_from_json(text: str) -> tuple[Method, ...]:
    """The reverse of ``methods_to_json``.

    Raises:
        ValueError: it isn't a method table.
    """
    table = json.loads(text)
    if not isinstance(table, dict) or not all(isinstance(inner, dict) for inner in table.values()):
        raise ValueError("the method table is not an object of objects")
    return tuple(Method(f"/{s}/{name}", bool(flag)) for s, inner in table.items() for name, flag in inner.items())


def to_json(instance: Instance) -> str:
    """The record as a store keeps it."""
    fields: dict[str, Any] = {
        "service": instance.service,
        "id": instance.id,
        "host": instance.host,
        "port": instance.port,
        "metrics_port": instance.metrics_port,
        "version": instance.version,
        "zone": instance.zone,
        "tags": instance.tags,
        "methods": methods_to_json(instance.methods),
        "started_unix_s": instance.started_unix_s,
    }
    return json.dumps(fields, separators=(",", ":"))


def from_json(text: str) -> Instance:
    """The reverse of ``to_json``. Fields that a later release added are passed over.

    Raises:
        ValueError: it isn't a record.
    """
    try:
        fields = json.loads(text)
        return Instance(
            service=fields["service"],
            id=fields["id"],
            host=fields["host"],
            port=fields["port"],
            metrics_port=fields.get("metrics_port", 0),
            version=fields.get("version", "v1"),
            zone=fields.get("zone", ""),
            tags=tuple(fields.get("tags", ())),
            methods=methods_from_json(fields.get("methods", "{}")),
            started_unix_s=fields.get("started_unix_s", 0.0),
        )
    except (KeyError, TypeError, AttributeError) as exc:
        raise ValueError(f"not an instance record: {exc!r}") from exc
