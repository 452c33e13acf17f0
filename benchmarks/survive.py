"""Answers under way while processes are killed with -9, again and again: whole, or not, and how long they stood still.

    python -m benchmarks.survive [--kills 20] [--callers 20] [--seed 1] [KIND…]

    generator       one of two generators
    orchestrator    one of two orchestrators
    both            one of each, at once
    generators      all generators; they are started again at once
    interrupted     one of two generators, under a model that can't be continued

For each kill, callers ask at once a question that needs a tool, and read the answer as a stream. The kill comes at a
random piece of it. In all kinds but the last every answer must be the undisturbed one, with the same usage, nothing
degraded, and each tool called once. In the last, the answers that were under way on the killed replica must end as
interrupted, with a part of the undisturbed text, and all others be whole. Exits with 1 where one is not.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import tempfile
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from tests.support.going_on import MODELS, Callers, calling, calls_of, undisturbed
from tests.support.mesh import ROOT, Mesh, running_mesh
from tests.support.sdk import in_child

KINDS: Final = ("generator", "orchestrator", "both", "generators", "interrupted")
REPLICAS: Final = {"retriever": 1, "generator": 2, "tools": 1, "orchestrator": 2}
VICTIMS: Final = {
    "generator": ("generator",),
    "orchestrator": ("orchestrator",),
    "both": ("generator", "orchestrator"),
    "interrupted": ("generator",),
}
QUESTION: Final = "What is 12 times 7?"
ANSWER: Final = ["12 × 7 = 84"]
NUMBERS: Final = ("kills", "answers", "whole", "interrupted", "wrong")
console = Console(width=110)


class Count:
    """What came of one kind of kill."""

    def __init__(self) -> None:
        self.kills = self.answers = self.whole = self.interrupted = 0
        self.wrong: list[str] = []
        self.pauses_s: list[float] = []

    def take(self, found: list[dict[str, Any]], tokens: list[str], *, may_break: bool) -> None:
        text, read = "".join(tokens), {caller["usage"][0] for caller in found if not caller["error"]}
        for caller in found:
            self.answers += 1
            partial = caller.get("partial", "")
            if may_break and caller["error"] == "ANSWER_INTERRUPTED" and text.startswith(partial) and partial:
                self.interrupted += 1
            elif (
                caller["error"] is None
                and caller["text"] == caller.get("streamed", text) == text
                and caller["usage"] == [min(read), len(tokens)]
                and not caller["degraded"]
                and caller["tools"] == ANSWER
            ):
                self.whole += 1
                self.pauses_s.append(caller.get("longest_pause_s", 0.0))
            else:
                shown = {name: value for name, value in caller.items() if name not in ("kinds", "streamed")}
                self.wrong.append(json.dumps(shown, ensure_ascii=False)[:1_000])


def kill(mesh: Mesh, kind: str, rng: random.Random) -> list[Any]:
    """Kill what the kind says; returns what died."""
    if kind == "generators":
        dead = mesh.named("generator-")
    else:
        dead = [rng.choice(mesh.named(f"{service}-")) for service in VICTIMS[kind]]
    for process in dead:
        process.kill()
    return dead


async def run(mesh: Mesh, callers: Callers, kind: str, arguments: argparse.Namespace) -> Count:
    rng, count, tokens = random.Random(f"{arguments.seed}-{kind}"), Count(), await undisturbed()
    (tools,) = mesh.named("tools-")
    called = calls_of(mesh, tools, "CallTool")
    for _ in range(arguments.kills):
        callers.begin(
            arguments.callers, model="once" if kind == "interrupted" else "slow", question=QUESTION, timeout_s=60
        )
        callers.wait_pieces(rng.randint(1, 25))
        dead = kill(mesh, kind, rng)
        count.kills += 1
        if kind == "generators":
            mesh.restart(*dead)
            dead = []
        count.take(callers.finish(), tokens, may_break=kind == "interrupted")
        mesh.restart(*dead)
        mesh.wait_ready(REPLICAS)
    called = calls_of(mesh, tools, "CallTool") - called
    if called != count.answers:
        count.wrong.append(f"tools were called {called} times for {count.answers} answers")
    return count


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=", ".join(KINDS))
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--callers", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    if unknown := set(arguments.kinds) - set(KINDS):
        parser.error(f"no such kind: {', '.join(sorted(unknown))}")
    environ = {"WEFT_GENERATOR__MODELS": json.dumps(MODELS), "WEFT_RETRIEVER__EMBEDDER": "none:"}
    table = Table("kind", *NUMBERS, "pause: median", "P95", "max")
    wrong: list[str] = []
    with (
        tempfile.TemporaryDirectory() as folder,
        running_mesh(Path(folder), REPLICAS, environ=environ) as mesh,
        calling(mesh) as callers,
    ):
        in_child(mesh, "ingest", str(ROOT / "docs" / "architecture.md"))
        for kind in arguments.kinds or KINDS:
            count = asyncio.run(run(mesh, callers, kind, arguments))
            pauses_ms = sorted(1_000 * pause_s for pause_s in count.pauses_s if pause_s) or [0.0]
            shown = (statistics.median(pauses_ms), pauses_ms[int(0.95 * (len(pauses_ms) - 1))], pauses_ms[-1])
            numbers = (count.kills, count.answers, count.whole, count.interrupted, len(count.wrong))
            table.add_row(kind, *map(str, numbers), *(f"{ms:,.0f} ms" for ms in shown))
            print(f"{kind}:", *(f"{n} {name}" for n, name in zip(numbers, NUMBERS, strict=True)), flush=True)
            wrong += count.wrong
            if kind == "interrupted" and not count.interrupted:
                wrong.append("no answer was interrupted: nothing was under way on what was killed")
    console.print(table)
    for line in wrong[:10]:
        console.print(line, style="red", markup=False)
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
