"""``onnx:///path``: a sentence-transformers model that lies in a local directory as ONNX.

    path/tokenizer.json                       how it cuts text
    path/model.onnx, or path/onnx/model.onnx  the network
    path/1_Pooling/config.json                how token vectors become one, if the network doesn't do it: mean,
                                              cls, max or last; without the file mean
    path/sentence_bert_config.json            max_seq_length: how many tokens it reads
    path/config_sentence_transformers.json    prompts: what is put before a query, and before a passage

``?pooling=`` and ``?max_tokens=`` say it otherwise. Vectors are brought to length 1, whatever the model does.
Texts go through one by one, on one thread, like ``minilm:``: so a text's vector doesn't depend on its company,
and on a processor batches gain nothing. How much of a query it knows is read from its vocabulary.

A collection remembers the URL. Put another model at another path: vectors of two models don't compare.

Errors: EMBEDDER_UNAVAILABLE when a file is missing or can't be run, INVALID_FIELD for a URL that says what isn't
known here.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

from mesh.plugins import Url
from services.retriever.embedders._vocabulary import knowledge
from services.retriever.embedding import only, whole_number
from services.retriever.ports import EmbedderFiles
from services.retriever.types import Vectors
from weft.errors import Reason, error

POOLINGS: Final = ("mean", "cls", "max", "last")
_PARAMETERS: Final = ("pooling", "max_tokens")
_MAX_TOKENS: Final = 512  # where nothing says how many
_PROMPTS: Final = {"query": ("query",), "passage": ("passage", "document", "corpus")}


class OnnxModel:
    """The model, ready. Safe to use from several threads at once."""

    query_batch = 1

    def __init__(self, url: str, folder: Path, pooling: str, max_tokens: int) -> None:
        self.url = url
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        network = folder / "model.onnx"
        if not network.is_file():
            network = folder / "onnx" / "model.onnx"
        self._session: Any = onnxruntime.InferenceSession(str(network), options, providers=["CPUExecutionProvider"])
        self._inputs = {given.name for given in self._session.get_inputs()}
        self._output = self._choose_output()
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_tokens or _configured(folder, "sentence_bert_config.json"))
        self._pooling = pooling or _pooling(folder)
        self._query_prompt, self._passage_prompt = _prompts(folder)
        self.dimension = len(self._row("dimension"))

    def embed(self, texts: Sequence[str]) -> Vectors:
        """One row per passage, of length 1."""
        return self._rows([self._passage_prompt + text for text in texts])

    def embed_queries(self, texts: Sequence[str]) -> Vectors:
        """One row per query, of length 1."""
        return self._rows([self._query_prompt + text for text in texts])

    def knowledge(self, text: str) -> float:
        """See ``vocabulary``."""
        return knowledge(self._tokenizer, text)

    def close(self) -> None:
        """The model goes with its last user."""

    def _rows(self, texts: Sequence[str]) -> Vectors:
        rows = np.zeros((len(texts), self.dimension), np.float32)
        for at, text in enumerate(texts):
            rows[at] = self._row(text)
        return rows

    def _row(self, text: str) -> Vectors:
        encoding = self._tokenizer.encode(text)
        ids = encoding.ids or [0]
        feed = {
            "input_ids": np.array([ids], np.int64),
            "attention_mask": np.ones((1, len(ids)), np.int64),
            "token_type_ids": np.zeros((1, len(ids)), np.int64),
        }
        (found,) = self._session.run([self._output], {name: feed[name] for name in feed.keys() & self._inputs})
        row = found[0] if found.ndim == 2 else _pooled(found[0], self._pooling)
        row = np.nan_to_num(row.astype(np.float32))
        length = float(np.linalg.norm(row))
        return row / length if length > 0 else row

    def _choose_output(self) -> str:
        """A whole text's vector where the network gives one, else its tokens'."""
        outputs = self._session.get_outputs()
        whole = [given.name for given in outputs if len(given.shape) == 2]
        named = [name for name in whole if name == "sentence_embedding"]
        return str((named or whole or [outputs[0].name])[0])


def _pooled(tokens: Vectors, pooling: str) -> Vectors:
    if pooling == "cls":
        return tokens[0]
    if pooling == "last":
        return tokens[-1]
    row: Vectors = tokens.max(axis=0) if pooling == "max" else tokens.mean(axis=0)
    return row


def _read(folder: Path, name: str) -> dict[str, Any]:
    path = folder / name
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}


def _configured(folder: Path, name: str) -> int:
    return int(_read(folder, name).get("max_seq_length") or _MAX_TOKENS)


def _pooling(folder: Path) -> str:
    modes = _read(folder, "1_Pooling/config.json")
    names = {"cls": "cls_token", "max": "max_tokens", "last": "lasttoken"}
    return next((mode for mode, name in names.items() if modes.get(f"pooling_mode_{name}")), "mean")


def _prompts(folder: Path) -> tuple[str, str]:
    prompts = _read(folder, "config_sentence_transformers.json").get("prompts") or {}
    query, passage = (
        next((str(prompts[name]) for name in names if name in prompts), "") for names in _PROMPTS.values()
    )
    return query, passage


def open(url: Url, files: EmbedderFiles) -> OnnxModel:
    """Open ``onnx:///path``.

    Raises:
        WeftError: EMBEDDER_UNAVAILABLE, INVALID_FIELD.
    """
    only(url, _PARAMETERS)
    pooling = url.query.get("pooling", "")
    if url.host or len(url.path) < 2 or (pooling and pooling not in POOLINGS):
        raise error(
            Reason.INVALID_FIELD,
            f"embedder: {url} is not onnx:///path/to/model, with ?pooling= one of {', '.join(POOLINGS)} if at all",
            field="embedder",
            value=url,
        )
    folder = Path(url.path)
    if not (folder / "tokenizer.json").is_file():
        raise error(
            Reason.EMBEDDER_UNAVAILABLE,
            f"{folder} holds no tokenizer.json; a model's directory has that and model.onnx",
            embedder=url,
            folder=folder,
        )
    return OnnxModel(url.raw, folder, pooling, whole_number(url, "max_tokens", 0))
