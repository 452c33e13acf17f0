"""Makes the pages of docs/ that are read off the code: config.md and errors.md. Run by ``make gen``.

A page that is typed drifts; these can't: CI runs ``make gen-check`` and fails on a difference.
"""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path
from typing import Final

from pydantic import BaseModel
from pydantic_settings import BaseSettings

from mesh.settings import ServiceSettings
from weft.errors import TABLE, Reason

DOCS: Final = Path(__file__).parent
PROTO: Final = DOCS.parent / "protos/weft/common/v1/error_reason.proto"
PROCESSES: Final = {
    "retriever": "services.retriever.settings",
    "generator": "services.generator.settings",
    "tools": "services.tools.settings",
    "orchestrator": "services.orchestrator.settings",
    "control plane": "mesh.controlplane.settings",
    "trace collector": "mesh.telemetry.collector.settings",
}
NOTE: Final = "<!-- made by `make gen` from the code; changes here are lost -->\n"


def rows(settings: type[BaseSettings], *, skip: frozenset[str] = frozenset()) -> list[str]:
    """A table row for each variable that ``settings`` reads."""
    found = []
    for name, info in settings.model_fields.items():
        if name in skip:
            continue
        kind = info.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            for inner, item in kind.model_fields.items():
                default = item.get_default(call_default_factory=True)
                found.append(row(f"WEFT_{name}__{inner}".upper(), default, item.description))
        else:
            alias = info.validation_alias
            variable = alias if isinstance(alias, str) else f"WEFT_{name}".upper()
            found.append(row(variable, info.get_default(call_default_factory=True), info.description))
    return found


def row(variable: str, default: object, description: str | None) -> str:
    shown = ",".join(map(str, default)) if isinstance(default, (tuple, list)) else str(default)
    if isinstance(default, dict):
        shown = json.dumps(default) if default else ""
    text = " ".join((description or "").split()).replace("|", "\\|")
    return f"| `{variable}` | {f'`{shown}`' if shown else ''} | {text} |"


def config_page() -> str:
    head = ["| Variable | Default | Meaning |", "|---|---|---|"]
    lines = [
        "# Configuration",
        NOTE,
        "Everything is set by environment variables. A `WEFT_` name that nobody reads is refused at start, so a typo",
        "can't run as a default. `weft config check` checks them, `weft config print` shows what is in force, secrets",
        "masked.",
        "",
        "## All processes",
        "",
        *head,
        *rows(ServiceSettings),
    ]
    shared = frozenset(ServiceSettings.model_fields)
    for title, module in PROCESSES.items():
        settings = importlib.import_module(module).Settings
        own = rows(settings, skip=shared)
        if own:
            lines += ["", f"## {title.capitalize()}", "", *head, *own]
    return "\n".join(lines) + "\n"


def errors_page() -> str:
    found = re.findall(r"((?:  // .+\n)+)  ERROR_REASON_(\w+) =", PROTO.read_text(encoding="utf-8"))
    by_reason = {name: " ".join(comment.replace("//", " ").split()) for comment, name in found}
    lines = [
        "# Errors",
        NOTE,
        "Every failed call has a canonical gRPC code and exactly one `google.rpc.ErrorInfo`, domain `weft.dev`, with",
        "one of these reasons. Messages may change, reasons and metadata keys do not. *Retry* says whether the same",
        "call may simply be made again; where a `RetryInfo` comes along, wait as long as it says.",
        "",
        "| Reason | Code | Retry | When |",
        "|---|---|---|---|",
    ]
    for reason in Reason:
        code, retryable = TABLE[reason]
        lines.append(f"| `{reason}` | {code.name} | {'yes' if retryable else ''} | {by_reason[reason]} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    (DOCS / "errors.md").write_text(errors_page(), encoding="utf-8")
    (DOCS / "config.md").write_text(config_page(), encoding="utf-8")


if __name__ == "__main__":
    main()
