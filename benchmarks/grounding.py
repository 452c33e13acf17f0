"""How often `extractive:` answers when it can, and abstains when it can't.

    python benchmarks/grounding.py --dataset DIR [--split held-out|made-on|all] [--json]

DIR holds files in SQuAD's JSON layout, for instance XQuAD's (google-deepmind/xquad, CC BY-SA 4.0), one for each
language. For each question five paragraphs are retrieved by BM25 from all articles of the file, and the model
answers from them, three times:

    present   the corpus as it is                               it should answer
    removed   without the question's article                    it should abstain
    hardest   with the article, without the one paragraph       mostly should abstain, but for what its
                                                                neighbours tell as well

The model's weights were made on the articles at even places (`made-on`); figures to trust are those of the odd ones.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import bm25s
import numpy as np

from mesh.plugins import Url
from services.generator.models import extractive
from services.generator.types import End, Message, Piece, Request, Role
from weft.values import FinishReason, Passage

TOP_K: Final = 5
SPLITS: Final = {"made-on": (0,), "held-out": (1,), "all": (0, 1)}
CORPORA: Final = ("present", "removed", "hardest")
_HAN: Final = "\u4e00-\u9fff"


@dataclass(frozen=True, slots=True)
class Paragraph:
    """A passage of the corpus."""

    article: int
    text: str


@dataclass(frozen=True, slots=True)
class Question:
    """A question, the paragraph that answers it, and the words of that which do."""

    article: int
    paragraph: int
    text: str
    gold: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the model did with one question."""

    answered: bool
    cited: tuple[str, ...]
    elapsed_ms: float


@dataclass(frozen=True, slots=True)
class Report:
    """Figures of one file. Shares are of all questions unless said otherwise."""

    file: str
    questions: int
    retrieved: float
    """Questions whose paragraph was among the five."""
    abstained_removed: float
    abstained_hardest: float
    answered_present: float
    answered_retrieved: float
    """Of the questions whose paragraph was among the five."""
    first_holds_gold: float
    """Of the answers: the first cited sentence holds the gold answer."""
    any_holds_gold: float
    """Of the answers: one of the cited sentences does."""
    sentences: float
    """Cited in an answer, mean."""
    median_ms: float
    p95_ms: float


def read(path: Path) -> tuple[list[Paragraph], list[Question]]:
    """Read a file in SQuAD's layout."""
    paragraphs: list[Paragraph] = []
    questions: list[Question] = []
    for article, entry in enumerate(json.loads(path.read_text(encoding="utf-8"))["data"]):
        for paragraph in entry["paragraphs"]:
            for asked in paragraph["qas"]:
                gold = tuple(answer["text"].strip() for answer in asked["answers"])
                questions.append(Question(article, len(paragraphs), asked["question"], gold))
            paragraphs.append(Paragraph(article, paragraph["context"]))
    return paragraphs, questions


def words(text: str) -> list[str]:
    """Words in small letters; Chinese as pairs of characters."""
    found: list[str] = []
    for run in re.findall(rf"[{_HAN}]+|(?:(?![{_HAN}])\w)+", text.lower()):
        if re.match(rf"[{_HAN}]", run):
            found += [run[i : i + 2] for i in range(len(run) - 1)] or [run]
        else:
            found.append(run)
    return found


def corpora(ranking: list[int], question: Question, paragraphs: list[Paragraph]) -> Iterator[tuple[str, list[int]]]:
    """Yield the three sets of five paragraphs."""
    yield "present", ranking[:TOP_K]
    yield "removed", [i for i in ranking if paragraphs[i].article != question.article][:TOP_K]
    yield "hardest", [i for i in ranking if i != question.paragraph][:TOP_K]


async def ask(model: extractive.Extractive, question: str, passages: list[str]) -> Outcome:
    """Ask the model once."""
    request = Request(
        messages=(Message(Role.USER, question),),
        passages=tuple(Passage(f"collections/x/documents/d/chunks/{i}", text) for i, text in enumerate(passages)),
    )
    started_s = time.perf_counter()
    events = [event async for event in model.generate(request)]
    elapsed_ms = (time.perf_counter() - started_s) * 1e3
    end = events[-1]
    assert isinstance(end, End)
    text = "".join(event.text for event in events if isinstance(event, Piece))
    cited = tuple(text[citation.start_char : citation.end_char] for citation in end.citations)
    return Outcome(end.reason is not FinishReason.ABSTAINED, cited, elapsed_ms)


async def measure(path: Path, split: str) -> Report:
    """Measure one file."""
    paragraphs, questions = read(path)
    questions = [question for question in questions if question.article % 2 in SPLITS[split]]
    index = bm25s.BM25()
    index.index([words(paragraph.text) for paragraph in paragraphs], show_progress=False)
    model = extractive.open(Url.parse("extractive:"))
    outcomes: dict[str, list[Outcome]] = {name: [] for name in CORPORA}
    retrieved: list[bool] = []
    for question in questions:
        ranking = [int(i) for i in np.argsort(-index.get_scores(words(question.text)), kind="stable")]
        retrieved.append(question.paragraph in ranking[:TOP_K])
        for name, chosen in corpora(ranking, question, paragraphs):
            outcomes[name].append(await ask(model, question.text, [paragraphs[i].text for i in chosen]))
    present = outcomes["present"]
    answers = [(question, outcome) for question, outcome in zip(questions, present, strict=True) if outcome.answered]
    times_ms = sorted(outcome.elapsed_ms for name in CORPORA for outcome in outcomes[name])
    return Report(
        file=path.name,
        questions=len(questions),
        retrieved=statistics.fmean(retrieved),
        abstained_removed=statistics.fmean(not outcome.answered for outcome in outcomes["removed"]),
        abstained_hardest=statistics.fmean(not outcome.answered for outcome in outcomes["hardest"]),
        answered_present=statistics.fmean(outcome.answered for outcome in present),
        answered_retrieved=statistics.fmean(
            outcome.answered for outcome, had_it in zip(present, retrieved, strict=True) if had_it
        ),
        first_holds_gold=statistics.fmean(holds(outcome.cited[:1], question.gold) for question, outcome in answers),
        any_holds_gold=statistics.fmean(holds(outcome.cited, question.gold) for question, outcome in answers),
        sentences=statistics.fmean(len(outcome.cited) for _, outcome in answers),
        median_ms=statistics.median(times_ms),
        p95_ms=times_ms[int(len(times_ms) * 0.95)],
    )


def holds(sentences: tuple[str, ...], gold: tuple[str, ...]) -> bool:
    """Whether one of the sentences holds one of the gold answers."""
    return any(answer in sentence for answer in gold for sentence in sentences)


def show(report: Report) -> None:
    """Print a report for a person."""
    print(f"{report.file}: {report.questions} questions, the paragraph retrieved for {report.retrieved:.3f}")
    print(f"  article removed       abstained {report.abstained_removed:.3f}")
    print(f"  paragraph removed     abstained {report.abstained_hardest:.3f}")
    print(f"  article present       answered  {report.answered_present:.3f}", end="")
    print(f"  (where the paragraph was retrieved {report.answered_retrieved:.3f})")
    print(f"    of the answers      the first sentence holds the gold answer {report.first_holds_gold:.3f},", end="")
    print(f" any of {report.sentences:.2f} does {report.any_holds_gold:.3f}")
    print(f"  time                  median {report.median_ms:.2f} ms, p95 {report.p95_ms:.2f} ms")


def main() -> int:
    """Measure every file of a directory."""
    parser = argparse.ArgumentParser(description="How often extractive: answers when it can.")
    parser.add_argument("--dataset", type=Path, required=True, metavar="DIR", help="directory of SQuAD-like JSON files")
    parser.add_argument("--split", choices=tuple(SPLITS), default="held-out", help="which articles' questions to ask")
    parser.add_argument("--json", action="store_true", help="print one JSON object per file")
    arguments = parser.parse_args()
    files = sorted(arguments.dataset.glob("*.json"))
    if not files:
        print(
            f"skipped: no *.json in {arguments.dataset}; XQuAD is at github.com/google-deepmind/xquad", file=sys.stderr
        )
        return 0
    for path in files:
        report = asyncio.run(measure(path, arguments.split))
        print(json.dumps(asdict(report))) if arguments.json else show(report)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
