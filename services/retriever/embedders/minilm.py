"""``minilm:`` all-MiniLM-L6-v2 as int8 ONNX on the CPU: English, 384 dimensions, about 256 tokens at once.

The model must have been prepared (``python -m services.retriever.prepare``); opening fetches nothing, so a
service starts or says at once that it is without. Texts go through one by one on one thread: activations
are quantised by one scale per call, so a text's vector would otherwise depend on its company in a batch,
and on a processor a batch of passages takes as long as its members one after the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

from mesh.plugins import Url
from services.retriever.embedders._vocabulary import knowledge
from services.retriever.embedding import plain
from services.retriever.minilm.source import TOKENIZER
from services.retriever.minilm.store import ONNX, default_cache_dir, find
from services.retriever.ports import EmbedderFiles
from services.retriever.types import Vectors
from weft.errors import Reason, error

DIMENSION: Final = 384
MAX_TOKENS: Final = 256  # what the model was trained to read


class MiniLm:
    """The model, ready. Safe to use from several threads at once."""

    url = "minilm:"
    dimension = DIMENSION
    query_batch = 1

    def __init__(self, folder: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session: Any = onnxruntime.InferenceSession(
            str(folder / ONNX), options, providers=["CPUExecutionProvider"]
        )
        self._tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(MAX_TOKENS)

    def embed(self, texts: Sequence[str]) -> Vectors:
        """One row per passage, of length 1."""
        rows = np.empty((len(texts), DIMENSION), np.float32)
        for at, text in enumerate(texts):
            ids = np.array([self._tokenizer.encode(text).ids], np.int64)
            rows[at] = self._session.run(None, {"input_ids": ids, "attention_mask": np.ones_like(ids)})[0][0]
        return rows

    def embed_queries(self, texts: Sequence[str]) -> Vectors:
        """One row per query: as passages."""
        return self.embed(texts)

    def knowledge(self, text: str) -> float:
        """See ``vocabulary``: this one was learned from English."""
        return knowledge(self._tokenizer, text)

    def close(self) -> None:
        """The model goes with its last user."""


def open(url: Url, files: EmbedderFiles) -> MiniLm:
    """Open ``minilm:``.

    Raises:
        WeftError: EMBEDDER_UNAVAILABLE when the model has not been prepared, INVALID_FIELD when the URL
            says more than ``minilm:``.
    """
    plain(url)
    cache_dir = files.cache_dir or default_cache_dir()
    folder = find(cache_dir)
    if folder is None:
        raise error(
            Reason.EMBEDDER_UNAVAILABLE,
            f"the model all-MiniLM-L6-v2 is not prepared in {cache_dir}; run python -m services.retriever.prepare",
            embedder=url,
            cache_dir=cache_dir,
        )
    return MiniLm(folder)
