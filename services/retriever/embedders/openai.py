"""``openai://host[:port]/v1?model=…&dimension=…``: any server with OpenAI's embeddings API (vLLM, TEI, OpenAI…).

    model            as the server calls it
    dimension        length of its vectors
    query_prefix     put before queries, passage_prefix before passages, where the model was trained with such
    tls=no           plain HTTP; servers on this machine (localhost, 127.0.0.1, ::1) are always called so

Its key comes from WEFT_RETRIEVER__EMBEDDER_API_KEYS by host, never from the URL, which collections remember. One
pool of connections is shared by all threads. A batch has at most ``MAX_BATCH`` texts. Failures that pass (no
connection, 429, 5xx) are tried ``TRIES`` times, with growing random pauses. Nothing is called when it is opened: a
server that is down makes searches go by words, and comes back by itself.

How much it knows of a query can't be seen from here: it counts as knowing every language, as today's embedding
servers mostly do.

Errors: EMBEDDER_UNAVAILABLE with what the server said, INVALID_FIELD for a URL that lacks something.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

import httpx
import numpy as np
import tenacity

from mesh.plugins import Url
from mesh.validation import shorten
from services.retriever.embedding import only, whole_number
from services.retriever.ports import EmbedderFiles
from services.retriever.types import Vectors
from weft.errors import Reason, WeftError, error

MAX_BATCH: Final = 32
TRIES: Final = 3
MAX_DIMENSION: Final = 16_384
_PARAMETERS: Final = ("model", "dimension", "query_prefix", "passage_prefix", "tls")
_LOCAL: Final = ("localhost", "127.0.0.1", "::1")
_PASSING: Final = frozenset({408, 429, 500, 502, 503, 504})
_TIMEOUT: Final = httpx.Timeout(20.0, connect=2.0, pool=5.0)
_LIMITS: Final = httpx.Limits(max_connections=16, max_keepalive_connections=8)
_FIRST_PAUSE_S: Final = 0.1
_LONGEST_PAUSE_S: Final = 1.0
_NUMBER_BYTES: Final = 32  # of one number of a vector as JSON, at most
_FRAME_BYTES: Final = 64 * 1024


class _PassingError(Exception):
    """The server can't just now; it may soon."""


class OpenAi:
    """A server's model. Safe to use from several threads at once."""

    query_batch = 16

    def __init__(self, url: Url, dimension: int, key: str) -> None:
        self.url, self.dimension = url.raw, dimension
        self._model = url.query["model"]
        self._query_prefix = url.query.get("query_prefix", "")
        self._passage_prefix = url.query.get("passage_prefix", "")
        host = f"[{url.host}]" if ":" in url.host else url.host
        plain = url.host in _LOCAL or url.query.get("tls") == "no"
        self._address = f"{'http' if plain else 'https'}://{host}:{url.port or (80 if plain else 443)}"
        self._path = f"{url.path.rstrip('/')}/embeddings"
        headers = {"authorization": f"Bearer {key}"} if key else {}
        self._client = httpx.Client(
            base_url=self._address, headers=headers, timeout=_TIMEOUT, limits=_LIMITS, trust_env=False
        )
        self._try = tenacity.Retrying(
            stop=tenacity.stop_after_attempt(TRIES),
            wait=tenacity.wait_random_exponential(multiplier=_FIRST_PAUSE_S, max=_LONGEST_PAUSE_S),
            retry=tenacity.retry_if_exception_type((_PassingError, httpx.TransportError)),
            reraise=True,
        )

    def embed(self, texts: Sequence[str]) -> Vectors:
        """One row per passage, of length 1."""
        return self._rows([self._passage_prefix + text for text in texts])

    def embed_queries(self, texts: Sequence[str]) -> Vectors:
        """One row per query, of length 1."""
        return self._rows([self._query_prefix + text for text in texts])

    def knowledge(self, text: str) -> float:
        """It counts as knowing every word."""
        return 1.0

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _rows(self, texts: Sequence[str]) -> Vectors:
        rows = np.zeros((len(texts), self.dimension), np.float32)
        for first in range(0, len(texts), MAX_BATCH):
            batch = texts[first : first + MAX_BATCH]
            rows[first : first + len(batch)] = self._batch(batch)
        return rows

    def _batch(self, texts: Sequence[str]) -> Vectors:
        # No server takes an empty text.
        body = {"model": self._model, "input": [text or " " for text in texts], "encoding_format": "float"}
        try:
            answer = self._try(self._post, body)
            rows = _vectors(answer, len(texts), self.dimension)
        except (httpx.HTTPError, _PassingError, ValueError) as exc:
            raise self._unavailable(f"{type(exc).__name__.strip('_')}: {exc}") from exc
        return rows

    def _post(self, body: Mapping[str, object]) -> bytes:
        most_bytes = _FRAME_BYTES + MAX_BATCH * self.dimension * _NUMBER_BYTES
        data = bytearray()
        with self._client.stream("POST", self._path, json=body) as response:
            for part in response.iter_bytes():
                data += part
                if len(data) > most_bytes:
                    raise ValueError(f"the answer has more than {most_bytes} bytes")
            if response.status_code in _PASSING:
                raise _PassingError(f"status {response.status_code}: {_said(data)}")
            if response.status_code in (401, 403):
                raise self._unavailable(
                    f"status {response.status_code}; is its key in WEFT_RETRIEVER__EMBEDDER_API_KEYS?"
                )
            if response.status_code != 200:
                raise self._unavailable(f"status {response.status_code}: {_said(data)}")
        return bytes(data)

    def _unavailable(self, problem: str) -> WeftError:
        return error(
            Reason.EMBEDDER_UNAVAILABLE,
            f"the embedding server {self._address} gave no vectors of {self._model}: {problem}",
            embedder=self.url,
            problem=problem,
        )


def _said(data: bytes | bytearray) -> str:
    return shorten(bytes(data[:200]).decode("utf-8", "replace"), 200)


def _vectors(answer: bytes, count: int, dimension: int) -> Vectors:
    """The rows of an answer, in the order of the request, brought to length 1.

    Raises:
        ValueError: saying what is wrong with it.
    """
    try:
        data: list[Any] = json.loads(answer)["data"]
        rows = np.array([row["embedding"] for row in sorted(data, key=lambda row: int(row["index"]))], np.float32)
    except (KeyError, TypeError, ValueError) as exc:
        raise ValueError(f"the answer is not one of the embeddings API ({type(exc).__name__})") from None
    if rows.shape != (count, dimension):
        raise ValueError(f"vectors of shape {rows.shape} came where {(count, dimension)} were expected")
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    if not np.isfinite(lengths).all() or not lengths.all():
        raise ValueError("a vector came that is not finite, or zero")
    scaled: Vectors = (rows / lengths).astype(np.float32)
    return scaled


def open(url: Url, files: EmbedderFiles) -> OpenAi:
    """Open ``openai://…``. Calls nothing.

    Raises:
        WeftError: INVALID_FIELD.
    """
    only(url, _PARAMETERS)
    dimension = whole_number(url, "dimension", 0)
    if (
        not url.host
        or not url.query.get("model")
        or not 1 <= dimension <= MAX_DIMENSION
        or url.username
        or url.password
    ):
        raise error(
            Reason.INVALID_FIELD,
            f"embedder: {url} is not openai://host[:port]/v1?model=NAME&dimension=N, N from 1 to {MAX_DIMENSION}; its "
            "key is given by WEFT_RETRIEVER__EMBEDDER_API_KEYS",
            field="embedder",
            value=url,
        )
    return OpenAi(url, dimension, files.api_keys.get(url.host, ""))
