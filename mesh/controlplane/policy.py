"""Route policies: how an operator wants the calls of one service to be split between its versions.

A policy lives in the registry's store as a JSON document beside the records:

    {"weights": {"v1": 90, "v2": 10},
     "headers": [{"header": "weft-route-canary", "value": "yes", "version": "v2"}]}

Both parts may be absent. Weights are whole percents that add up to 100; without any, calls spread evenly
over all instances. Header routes come before the weights, first match wins. The service is the document's
key in the store and the revision is the store's own, so neither is in the document.

``parse`` and ``validate`` raise POLICY_INVALID with a text for people. What comes from the store may have
been written by anything: ``read`` returns the problem as text instead.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from mesh.registry import StoredPolicy
from weft import names
from weft.errors import Reason, WeftError, error

MAX_HEADER_ROUTES: Final = 16
MAX_WEIGHTS: Final = 32
MAX_HEADER_VALUE_CHARS: Final = 256
TOTAL_PERCENT: Final = 100

SERVICE_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
VERSION_LABEL: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_HEADER_KEY: Final = re.compile(r"[a-z0-9_.-]{1,64}")
_HEADER_VALUE: Final = re.compile(r"[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?")
_SHOWN_CHARS: Final = 80


@dataclass(frozen=True, slots=True)
class VersionWeight:
    """A version's share of the calls, in percent."""

    version: str
    weight: int


@dataclass(frozen=True, slots=True)
class HeaderRoute:
    """Calls whose metadata ``header`` is exactly ``value`` go to ``version``."""

    header: str
    value: str
    version: str


@dataclass(frozen=True, slots=True)
class RoutePolicy:
    """What an operator wants of one service. ``revision`` is the store's."""

    service: str
    weights: tuple[VersionWeight, ...] = ()
    headers: tuple[HeaderRoute, ...] = ()
    revision: int = 0

    def versions(self) -> frozenset[str]:
        """Every version that the policy names."""
        return frozenset(w.version for w in self.weights) | frozenset(h.version for h in self.headers)

    def weighted_versions(self) -> frozenset[str]:
        """The versions that take a share of the calls."""
        return frozenset(w.version for w in self.weights if w.weight > 0)


def validate(policy: RoutePolicy) -> RoutePolicy:
    """Return the policy with its weights by version, if it can be carried out.

    Raises:
        WeftError: POLICY_INVALID, naming the field and the value at fault.
    """
    if not SERVICE_NAME.fullmatch(policy.service):
        raise _invalid(
            policy.service,
            "service",
            f"service {_shown(policy.service)} is not a service name: 1 to 63 of a-z, 0-9 and '-'",
        )
    _check_weights(policy)
    _check_headers(policy)
    weights = tuple(sorted(policy.weights, key=lambda w: w.version))
    return RoutePolicy(policy.service, weights, policy.headers, policy.revision)


def _check_weights(policy: RoutePolicy) -> None:
    if not policy.weights:
        return
    if len(policy.weights) > MAX_WEIGHTS:
        raise _invalid(policy.service, "weights", f"{len(policy.weights)} weights, at most {MAX_WEIGHTS} are allowed")
    seen: set[str] = set()
    for share in policy.weights:
        _check_version(policy.service, "weights", share.version)
        if share.version in seen:
            raise _invalid(policy.service, "weights", f"version {share.version} has two weights; give it one")
        seen.add(share.version)
        if not 0 <= share.weight <= TOTAL_PERCENT:
            raise _invalid(
                policy.service, "weights", f"weight {share.weight} of version {share.version} is not between 0 and 100"
            )
    total = sum(share.weight for share in policy.weights)
    if total != TOTAL_PERCENT:
        shares = ", ".join(f"{share.version}={share.weight}" for share in policy.weights)
        raise _invalid(policy.service, "weights", f"the weights {shares} add up to {total}, they must add up to 100")


def _check_headers(policy: RoutePolicy) -> None:
    if len(policy.headers) > MAX_HEADER_ROUTES:
        raise _invalid(
            policy.service, "headers", f"{len(policy.headers)} header routes, at most {MAX_HEADER_ROUTES} are allowed"
        )
    seen: set[tuple[str, str]] = set()
    for route in policy.headers:
        _check_version(policy.service, "headers", route.version)
        _check_header_key(policy.service, route.header)
        if len(route.value) > MAX_HEADER_VALUE_CHARS or not _HEADER_VALUE.fullmatch(route.value):
            raise _invalid(
                policy.service,
                "headers",
                f"value {_shown(route.value)} of header {route.header} can't be matched: 1 to {MAX_HEADER_VALUE_CHARS} "
                "printable ASCII characters, no space at either end",
            )
        if (route.header, route.value) in seen:
            raise _invalid(
                policy.service,
                "headers",
                f"two routes for {route.header}={_shown(route.value)}: the first match wins, so drop the second",
            )
        seen.add((route.header, route.value))


def _check_header_key(service: str, key: str) -> None:
    if not _HEADER_KEY.fullmatch(key):
        problem = "1 to 64 of a-z, 0-9, '-', '_' and '.'"
    elif key.endswith("-bin"):
        problem = "binary metadata can't be matched; use a key that doesn't end in -bin"
    elif key.startswith("grpc-") or key in ("content-type", "te", "user-agent"):
        problem = f"gRPC keeps it for itself; use {names.METADATA_ROUTE_PREFIX}…"
    elif key == names.METADATA_BUCKET:
        problem = "the weights decide by it"
    else:
        return
    raise _invalid(service, "headers", f"header {_shown(key)} can't be routed by: {problem}")


def _check_version(service: str, field: str, version: str) -> None:
    if not VERSION_LABEL.fullmatch(version):
        raise _invalid(
            service,
            field,
            f"version {_shown(version)} is not a version label: 1 to 63 of letters, digits, '.', '_' and '-', "
            "the first a letter or digit",
        )


def to_document(policy: RoutePolicy) -> str:
    """The JSON document of a policy, the same text for the same policy."""
    body: dict[str, Any] = {}
    if policy.weights:
        body["weights"] = {share.version: share.weight for share in policy.weights}
    if policy.headers:
        body["headers"] = [{"header": h.header, "value": h.value, "version": h.version} for h in policy.headers]
    return json.dumps(body, sort_keys=True, ensure_ascii=False)


def parse(stored: StoredPolicy) -> RoutePolicy:
    """The policy of a stored document.

    Raises:
        WeftError: POLICY_INVALID, where the document is no policy.
    """
    service = stored.service
    try:
        body = json.loads(stored.document, object_pairs_hook=_unique_keys)
    except (ValueError, RecursionError) as exc:
        raise _invalid(service, "", f"the document is not JSON: {exc}") from exc
    if not isinstance(body, dict):
        raise _invalid(service, "", f"the document is {_kind(body)}, it must be an object with weights or headers")
    _check_keys(service, "", body, {"weights", "headers"})
    weights = _object(service, "weights", body.get("weights", {}))
    headers = body.get("headers", [])
    if not isinstance(headers, list):
        raise _invalid(service, "headers", f"headers is {_kind(headers)}, it must be a list")
    return validate(
        RoutePolicy(
            service=service,
            weights=tuple(VersionWeight(version, _percent(service, version, w)) for version, w in weights.items()),
            headers=tuple(_header_route(service, entry) for entry in headers),
            revision=stored.revision,
        )
    )


def read(stored: StoredPolicy) -> tuple[RoutePolicy | None, str]:
    """The policy, or None and what is wrong with the document."""
    try:
        return parse(stored), ""
    except WeftError as err:
        return None, err.message


def _header_route(service: str, entry: object) -> HeaderRoute:
    fields = _object(service, "headers", entry)
    _check_keys(service, "headers", fields, {"header", "value", "version"})
    texts = {}
    for key in ("header", "value", "version"):
        value = fields.get(key)
        if not isinstance(value, str):
            raise _invalid(service, "headers", f"a header route's {key} is {_kind(value)}, it must be text")
        texts[key] = value
    return HeaderRoute(texts["header"], texts["value"], texts["version"])


def _percent(service: str, version: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise _invalid(
            service, "weights", f"the weight of version {_shown(version)} is {_kind(value)}, it must be a whole percent"
        )
    return value


def _object(service: str, field: str, value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _invalid(service, field, f"{field} holds {_kind(value)} where an object must be")
    return value


def _check_keys(service: str, field: str, value: dict[str, Any], allowed: set[str]) -> None:
    unknown = sorted(value.keys() - allowed)
    if unknown:
        raise _invalid(service, field, f"unknown name {_shown(unknown[0])}; allowed are {', '.join(sorted(allowed))}")


def _unique_keys(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise ValueError(f"the name {_shown(key)} comes twice")
        result[key] = value
    return result


def _kind(value: object) -> str:
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "a list"
    return "nothing" if value is None else _shown(json.dumps(value) if not isinstance(value, str) else value)


def _shown(value: str) -> str:
    """A value as an error may print it: quoted, escaped and cut."""
    cut = value if len(value) <= _SHOWN_CHARS else value[:_SHOWN_CHARS] + "…"
    return ascii(cut) if not cut.isprintable() else f"'{cut}'"


def _invalid(service: str, field: str, problem: str) -> WeftError:
    path = f"policy.{field}" if field else "policy"
    return error(
        Reason.POLICY_INVALID,
        f"route policy of {_shown(service)}: {problem}",
        field=path,
        service=service[:_SHOWN_CHARS],
        problem=problem,
    )
