"""What embedding several queries at once would gain on a processor, and what it would do to their vectors.

    python -m benchmarks.micro_batches [--rounds 5]

MiniLM as the retriever runs it, int8, one thread: queries one by one beside the same queries padded to batches, in
alternating rounds. The retriever embeds them one by one (ADR 0019). This exits with 1 where batches of 16 take less
than FLOOR of that: the decision should be looked at again then.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
from rich.console import Console
from rich.table import Table

from services.retriever.embedders.minilm import MiniLm
from services.retriever.minilm.store import default_cache_dir, find
from services.retriever.types import Vectors

FLOOR: Final = 0.6
SIZES: Final = (2, 4, 8, 16, 32)
_QUERIES: Final = 256
_WORDS: Final = (
    "how",
    "does",
    "what",
    "the",
    "replica",
    "canary",
    "passage",
    "index",
    "answer",
    "lease",
    "route",
    "snapshot",
)


def queries(seed: int = 1) -> list[str]:
    """As people ask: 4 to 14 words."""
    rng = random.Random(seed)
    return [" ".join(rng.choices(_WORDS, k=rng.randint(4, 14))) + "?" for _ in range(_QUERIES)]


def together(model: MiniLm, texts: Sequence[str]) -> Vectors:
    """One run of the model for all of them, padded to the longest."""
    encoded = [model._tokenizer.encode(text).ids for text in texts]
    ids = np.zeros((len(encoded), max(map(len, encoded))), np.int64)
    mask = np.zeros_like(ids)
    for row, tokens in enumerate(encoded):
        ids[row, : len(tokens)], mask[row, : len(tokens)] = tokens, 1
    vectors: Vectors = model._session.run(None, {"input_ids": ids, "attention_mask": mask})[0]
    return vectors


def took_s(embed: Callable[[Sequence[str]], Vectors], texts: Sequence[str], size: int) -> tuple[float, Vectors]:
    """Seconds for all of them, in groups of ``size``, and their vectors."""
    began_s = time.perf_counter()
    rows = [embed(texts[at : at + size]) for at in range(0, len(texts), size)]
    return time.perf_counter() - began_s, np.concatenate(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    folder = find(default_cache_dir())
    if folder is None:
        raise SystemExit("MiniLM isn't here; fetch it with: weft models pull")
    model, texts = MiniLm(folder), queries()
    table = Table("queries at once", "time, of one by one", "least cosine to one by one")
    ratios: dict[int, float] = {}
    for size in SIZES:
        found = []
        for _ in range(arguments.rounds):
            alone_s, alone = took_s(model.embed_queries, texts, size)
            batched_s, batched = took_s(lambda group: together(model, group), texts, size)
            found.append(batched_s / alone_s)
        ratios[size] = statistics.median(found)
        spread = f"{ratios[size]:.2f} ({min(found):.2f} to {max(found):.2f})"
        table.add_row(str(size), spread, f"{(alone * batched).sum(axis=1).min():.3f}")
    Console().print(table)
    raise SystemExit(ratios[16] < FLOOR)


if __name__ == "__main__":
    main()
