"""JSON Schema 2020-12, and its errors in words that help.

jsonschema says what rule was broken; a caller wants to know which argument, what it holds, and what
is allowed. ``Schema.problem`` answers that for the one error that explains most.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError, ValidationError, best_match

_MAX_VALUE_CHARS: Final = 60
_ROOT: Final = "arguments"


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a value doesn't fit: ``path`` holds ``value``, and ``allowed`` would do."""

    path: str
    value: str
    allowed: str

    def __str__(self) -> str:
        return f"{self.path} is {self.value}; {self.allowed}"


class Schema:
    """A compiled schema.

    Raises:
        ValueError: the schema itself is wrong, with the place.
    """

    def __init__(self, schema: Mapping[str, Any]) -> None:
        try:
            Draft202012Validator.check_schema(schema)
        except SchemaError as exc:
            raise ValueError(f"not a JSON Schema 2020-12: {exc.json_path}: {exc.message}") from exc
        self._validator = Draft202012Validator(schema)

    def problem(self, value: object) -> Problem | None:
        """What is wrong with ``value``, None when it fits. NaN and Infinity are no JSON and never fit."""
        path = not_finite(value)
        if path is not None:
            return Problem(path, "not a finite number", "allowed are finite numbers only")
        found = best_match(self._validator.iter_errors(value))
        return None if found is None else _explain(found)


def not_finite(value: object, path: str = _ROOT) -> str | None:
    """The path of the first NaN or Infinity in ``value``, None when there is none."""
    if isinstance(value, float):
        return None if math.isfinite(value) else path
    items: Sequence[tuple[object, object]] = ()
    if isinstance(value, Mapping):
        items = [(f"{path}.{key}", inner) for key, inner in value.items()]
    elif isinstance(value, list | tuple):
        items = [(f"{path}[{index}]", inner) for index, inner in enumerate(value)]
    for inner_path, inner in items:
        found = not_finite(inner, str(inner_path))
        if found is not None:
            return found
    return None


def _explain(found: ValidationError) -> Problem:
    path = _ROOT + found.json_path[1:]
    rule, wanted, value = found.validator, found.validator_value, found.instance
    if rule == "required":
        missing = next(name for name in wanted if name not in value)
        return Problem(f"{path}.{missing}", "missing", f"given are: {_given(value)}; add it")
    if rule == "additionalProperties":
        known = found.schema.get("properties", {})
        unknown = next(name for name in value if name not in known)
        return Problem(f"{path}.{unknown}"[:120], "not an argument", f"allowed are: {', '.join(known) or 'none'}")
    return Problem(path, quote(value), _allowed(str(rule), wanted, found))


def _given(value: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={quote(inner)}" for name, inner in list(value.items())[:4]) or "nothing"


def _allowed(rule: str, wanted: Any, found: ValidationError) -> str:
    match rule:
        case "enum":
            return "allowed are: " + ", ".join(map(str, wanted))
        case "const":
            return f"allowed is {quote(wanted)}"
        case "type":
            return f"expected {'one of ' + ', '.join(wanted) if isinstance(wanted, list) else f'type {wanted}'}"
        case "minimum" | "exclusiveMinimum":
            return f"allowed is {'at least' if rule == 'minimum' else 'more than'} {wanted}"
        case "maximum" | "exclusiveMaximum":
            return f"allowed is {'at most' if rule == 'maximum' else 'less than'} {wanted}"
        case "minLength" | "maxLength":
            return f"allowed are {'at least' if rule == 'minLength' else 'at most'} {wanted} characters"
        case "pattern":
            return str(found.schema.get("description") or f"it must match {wanted}")
        case _:
            return found.message[:200]


def quote(value: object) -> str:
    """``value`` as it may stand in a message: printable and short."""
    shown = ascii(value) if isinstance(value, str) and not value.isprintable() else repr(value)
    return shown if len(shown) <= _MAX_VALUE_CHARS else shown[: _MAX_VALUE_CHARS - 1] + "…"
