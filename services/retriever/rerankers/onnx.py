"""``onnx:///path``: a cross-encoder that lies in a local directory as ONNX. It reads a query and a passage together.

    path/tokenizer.json                      how it cuts a pair of texts
    path/model.onnx, or path/onnx/model.onnx  the network: one number for a pair, higher is better

``?max_tokens=`` of query and passage together (512); the passage is cut, not the query. Pairs go through one by one
on one thread, so a pair's score doesn't depend on its company.

The number is the network's own: its range is the model's, it compares within one answer only.

Errors: EMBEDDER_UNAVAILABLE when a file is missing or can't be run; INVALID_FIELD for a URL that means nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

from mesh.plugins import Url
from services.retriever.embedding import only, whole_number
from services.retriever.ports import Scores
from weft.errors import Reason, error

_MAX_TOKENS: Final = 512
_INPUTS: Final = ("input_ids", "attention_mask", "token_type_ids")


class CrossEncoder:
    """The model, ready. Safe to use from several threads at once."""

    def __init__(self, url: str, folder: Path, max_tokens: int) -> None:
        self.url = url
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        network = folder / "model.onnx"
        if not network.is_file():
            network = folder / "onnx" / "model.onnx"
        self._session: Any = onnxruntime.InferenceSession(str(network), options, providers=["CPUExecutionProvider"])
        self._inputs = {given.name for given in self._session.get_inputs()}
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_tokens, strategy="only_second")

    def scores(self, query: str, passages: Sequence[str]) -> Scores:
        """How well each passage answers the query; higher is better."""
        found = np.zeros(len(passages), np.float32)
        for at, passage in enumerate(passages):
            encoding = self._tokenizer.encode(query, passage)
            columns = zip(_INPUTS, (encoding.ids, encoding.attention_mask, encoding.type_ids), strict=True)
            feed = {name: np.array([column], np.int64) for name, column in columns if name in self._inputs}
            found[at] = np.ravel(self._session.run(None, feed)[0])[-1]
        return np.nan_to_num(found)


def open(url: Url) -> CrossEncoder:
    """Open ``onnx:///path``.

    Raises:
        WeftError: EMBEDDER_UNAVAILABLE, INVALID_FIELD.
    """
    only(url, ("max_tokens",))
    folder = Path(url.path)
    if url.host or not (folder / "tokenizer.json").is_file():
        raise error(
            Reason.EMBEDDER_UNAVAILABLE,
            f"{url} leads to no cross-encoder: its directory has tokenizer.json and model.onnx",
            reranker=url,
        )
    return CrossEncoder(url.raw, folder, whole_number(url, "max_tokens", _MAX_TOKENS))
