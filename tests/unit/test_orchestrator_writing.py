"""An answer over many streams and many owners: broken and taken over at random, it is the undisturbed one.

The model here has tokens of one to three bytes, so that a cut goes through characters, holds back what may be the
beginning of a stop string, and hands over token ids before their text. Store, log and outbox are the real ones.
"""

from __future__ import annotations

import asyncio
import codecs
import random
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from services.orchestrator import writing
from services.orchestrator.broadcast import Broadcast
from services.orchestrator.outbox import Outbox
from services.orchestrator.records import Entry, Limits, Opening, Taken
from services.orchestrator.recovery import Recovered
from services.orchestrator.sessions.sqlite import SqliteSessions
from services.orchestrator.types import (
    Continuation,
    Generation,
    GenerationDelta,
    GenerationFinished,
    GenerationStarted,
    Prompt,
    TextDelta,
)
from services.orchestrator.writing import Writing
from tests.support.orchestration import ScriptedGenerator, text_of
from weft.errors import Reason, WeftError, error
from weft.values import FinishReason, Usage

ANSWER = "Each guest — 最后一位客人 — of “Zum Löwen” 👩‍👩‍👧🦁 says é, then STOPS, ST, STO and goes on. "
STOP = "STOP!"
PROMPT_IDS = (7, 8, 9)
DOWN = error(Reason.DEPENDENCY_UNAVAILABLE, "connection reset")


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "_FIRST_PAUSE_S", 0.0)


@dataclass
class Bytewise:
    """Says ``answer``, cut into tokens of some bytes; breaks after so many tokens, once for each of ``breaks``."""

    rng: random.Random
    answer: str
    breaks: list[int] = field(default_factory=list)
    can_resume: bool = True
    can_repeat: bool = False
    prompts: list[Prompt] = field(default_factory=list)

    def __post_init__(self) -> None:
        rest, self.tokens = self.answer.encode(), list[bytes]()
        while rest:
            size = self.rng.randint(1, 3)
            self.tokens.append(rest[:size])
            rest = rest[size:]

    async def generate(self, prompt: Prompt) -> AsyncGenerator[Generation, None]:
        self.prompts.append(prompt)
        said, shown, decoder = 0, "", codecs.getincrementaldecoder("utf-8")()
        decoded = ""
        if prompt.continuation is not None:
            said, shown = len(prompt.continuation.output_token_ids), prompt.continuation.text
            assert prompt.continuation.prompt_token_ids == PROMPT_IDS
            assert prompt.continuation.output_token_ids == tuple(range(said))
            assert prompt.model == "m"
            decoded = decoder.decode(b"".join(self.tokens[:said]))
            assert decoded.startswith(shown), (decoded, shown)
        yield GenerationStarted("m", "bytes", self.can_resume, PROMPT_IDS if self.can_resume else (), self.can_repeat)
        until = self.breaks.pop(0) if self.breaks else None
        at = said
        while at < len(self.tokens):
            some = range(at, min(at + self.rng.randint(1, 4), len(self.tokens)))
            at = some.stop
            decoded += decoder.decode(b"".join(self.tokens[index] for index in some))
            safe = decoded[: len(decoded) - held_back(decoded)] if at < len(self.tokens) else decoded
            text, shown = safe[len(shown) :], max(shown, safe, key=len)
            yield GenerationDelta(text, tuple(some) if self.can_resume else ())
            if self.rng.random() < 0.3:
                await asyncio.sleep(0.001)
            if until is not None and at >= until:
                raise DOWN
        usage = Usage(input_tokens=len(PROMPT_IDS) + said, output_tokens=len(self.tokens) - said)
        yield GenerationFinished(FinishReason.STOP, usage)


def held_back(text: str) -> int:
    """Characters at the end that may begin the stop string."""
    return next((size for size in range(len(STOP) - 1, 0, -1) if text.endswith(STOP[:size])), 0)


class Store:
    """A session store, and the leases of one turn after the other."""

    def __init__(self, place: Path) -> None:
        self.now_s = 1_000.0
        self.sessions = SqliteSessions(place / "sessions.db", Limits(), lambda: self.now_s)

    async def take(self, request_id: str) -> Taken:
        """The lease, once the owner before has been dead for long enough."""
        self.now_s += 10
        opening = Opening("acme", request_id, True, request_id, "why?", "a", "0" * 32)
        taken = await self.sessions.begin(opening)
        assert isinstance(taken, Taken)
        return taken


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    found = Store(tmp_path)
    await found.sessions.check()
    yield found
    await found.sessions.close()


async def own(
    store: Store, model: Bytewise | ScriptedGenerator, request_id: str, seen: dict[int, object], dies_after: int | None
) -> GenerationFinished | None:
    """Write an answer as one owner does; None if it died after so many events. What was shown is added to ``seen``."""
    taken = await store.take(request_id)
    recovered = Recovered.of(taken.log)
    shown = Shown(seen, dies_after)
    try:
        async with asyncio.TaskGroup() as tasks:
            outbox = Outbox(
                store.sessions,
                taken.lease,
                shown,
                tasks,
                next_sequence=recovered.next_sequence,
                interval_s=0.001,
            )
            text = Writing(model, outbox, recovered)
            try:
                end = await text.write(Prompt("why?"), budget_s=20)
                await outbox.leave()
            finally:
                outbox.close()
            return end
    except BaseExceptionGroup as group:
        while isinstance(group.exceptions[0], BaseExceptionGroup):
            group = group.exceptions[0]
        if isinstance(group.exceptions[0], Dead):
            return None
        raise group.exceptions[0] from None


class Dead(Exception):
    """``kill -9``: what is stored is stored, the rest is gone."""


class Shown(Broadcast):
    """What readers have seen, by sequence; the same sequence must not be seen with another content."""

    def __init__(self, seen: dict[int, object], dies_after: int | None) -> None:
        super().__init__(lambda: None)
        self._seen, self._left = seen, dies_after

    def publish(self, entries: Sequence[Entry]) -> None:  # type: ignore[override]
        if self._left is not None:
            self._left -= 1
            if self._left < 0:
                raise Dead  # stored, and never shown
        for entry in entries:
            if entry.sequence >= 0:
                assert self._seen.setdefault(entry.sequence, entry.event) == entry.event


def texts(seen: dict[int, object]) -> str:
    """What a reader has, over all owners; stored events that nobody showed are in the log."""
    return "".join(seen[n].text for n in sorted(seen) if isinstance(seen[n], TextDelta))  # type: ignore[attr-defined]


async def logged(store: Store, request_id: str) -> list[Entry]:
    return list((await store.sessions.progress("acme", request_id, 1, 0)).log)


@pytest.mark.parametrize("seed", range(15))
@pytest.mark.parametrize("way", ["can_resume", "can_repeat"])
async def test_broken_and_taken_over_at_random_an_answer_is_the_undisturbed_one(
    store: Store, seed: int, way: str
) -> None:
    rng = random.Random(seed)
    answer = ANSWER * rng.randint(1, 2)
    breaks = sorted(rng.sample(range(1, 40), rng.randint(0, 4)))
    model = Bytewise(rng, answer, breaks, can_resume=way == "can_resume", can_repeat=way == "can_repeat")
    seen: dict[int, object] = {}
    end = None
    for dies_after in (*(rng.randint(0, 6) for _ in range(rng.randint(0, 3))), None):
        end = await own(store, model, "r", seen, dies_after)
        if end is not None:
            break
    log = await logged(store, "r")
    assert text_of(log) == answer
    assert [entry.sequence for entry in log] == list(range(1, len(log) + 1))
    assert all(entry.event == seen[entry.sequence] for entry in log if entry.sequence in seen)
    assert end is not None
    assert end.usage == Usage(len(PROMPT_IDS), len(model.tokens))


async def test_an_answer_that_cannot_go_on_is_interrupted_with_all_of_it_sent(store: Store) -> None:
    model = Bytewise(random.Random(1), ANSWER, [30], can_resume=False)
    seen: dict[int, object] = {}
    with pytest.raises(WeftError) as caught:
        await own(store, model, "r", seen, None)
    assert caught.value.reason == Reason.ANSWER_INTERRUPTED
    assert caught.value.code.name == "UNAVAILABLE"
    assert caught.value.metadata["partial"] == "true"
    assert caught.value.metadata["emitted_chars"] == str(len(texts(seen)))
    assert ANSWER.startswith(texts(seen))
    assert len(model.prompts) == 1


async def test_the_next_owner_does_not_ask_a_model_that_cannot_go_on(store: Store) -> None:
    model = Bytewise(random.Random(1), ANSWER, can_resume=False)
    seen: dict[int, object] = {}
    assert await own(store, model, "r", seen, 2) is None
    with pytest.raises(WeftError) as caught:
        await own(store, model, "r", seen, None)
    assert caught.value.reason == Reason.ANSWER_INTERRUPTED
    assert len(model.prompts) == 1


async def test_what_broke_before_its_first_text_begins_anew_with_any_model(store: Store) -> None:
    began = GenerationStarted("first", "vllm", can_resume=True, prompt_token_ids=(1,))
    other = GenerationStarted("second", "vllm", can_resume=True, prompt_token_ids=(2,))
    end = GenerationFinished(FinishReason.STOP, Usage(2, 2, cached_tokens=2))
    model = ScriptedGenerator(
        [began, GenerationDelta("", (11, 12)), DOWN],
        [other, GenerationDelta("It ", (21,)), 0.005, GenerationDelta("", (22,)), DOWN],
        [other, GenerationDelta("is.", (22, 23)), end],
    )
    seen: dict[int, object] = {}
    assert await own(store, model, "r", seen, None) == GenerationFinished(FinishReason.STOP, Usage(1, 3, 1))
    assert texts(seen) == "It is."
    assert [prompt.continuation for prompt in model.prompts] == [None, None, Continuation((2,), (21,), "It ")]
    assert [prompt.model for prompt in model.prompts] == ["", "", "second"]


@pytest.mark.parametrize(
    "refusal",
    [
        error(Reason.RESUME_UNSUPPORTED, "not me"),
        error(Reason.INVALID_FIELD, "resume.output_token_ids: not mine", field="resume.output_token_ids"),
        error(Reason.MODEL_NOT_FOUND, "there is no model 'm'"),
        error(Reason.CONTEXT_TOO_LONG, "too long"),
    ],
    ids=lambda err: err.reason,
)
async def test_a_refusal_to_go_on_is_not_told_as_a_fault_of_the_request(store: Store, refusal: WeftError) -> None:
    began = GenerationStarted("m", "vllm", can_resume=True, prompt_token_ids=(1,))
    model = ScriptedGenerator([began, GenerationDelta("It ", (1,)), 0.005, DOWN], [refusal])
    with pytest.raises(WeftError) as caught:
        await own(store, model, "r", {}, None)
    assert caught.value.reason == Reason.ANSWER_INTERRUPTED


async def test_a_replica_that_is_too_busy_to_go_on_is_not_the_end(store: Store) -> None:
    began = GenerationStarted("m", "vllm", can_resume=True, prompt_token_ids=(1,))
    busy = error(Reason.OVERLOADED, "queue full", retry_after_s=0.3)
    closed = error(Reason.MODEL_UNAVAILABLE, "circuit open", retry_after_s=60)  # here; another replica may do
    end = GenerationFinished(FinishReason.STOP, Usage(2, 1))
    model = ScriptedGenerator(
        [began, GenerationDelta("It ", (1,)), DOWN], [busy], [closed], [began, GenerationDelta("is.", (2,)), end]
    )
    seen: dict[int, object] = {}
    began_s = asyncio.get_running_loop().time()
    await own(store, model, "r", seen, None)
    assert asyncio.get_running_loop().time() - began_s >= 0.3
    assert texts(seen) == "It is."


async def test_patience_begins_anew_with_each_piece_of_text(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "PATIENCE_S", 0.2)
    monkeypatch.setattr(writing, "_FIRST_PAUSE_S", 0.15)
    model = Bytewise(random.Random(3), ANSWER, list(range(4, 40, 8)))
    seen: dict[int, object] = {}
    assert await own(store, model, "r", seen, None) is not None  # five pauses of 0.15 s
    assert texts(seen) == ANSWER
