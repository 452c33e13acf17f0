"""The SDK's client: one connection to a mesh, four verbs, and what is in: collections, documents, jobs.

    async with weft.Client() as c:
        await c.ingest("docs/")
        answer = await c.ask("How does a canary roll back?")
        print(answer.text, [citation.source for citation in answer.citations])
        answer = await c.ask("And how long does that take?", session=answer.session)

Entering asks the control plane once, so that a mesh that isn't there is told at once and by its address.
After that gRPC itself finds the services, balances over their replicas and retries what may be retried;
the client adds what only the caller can do: it knows what it has ingested (its searches and asks look at
least that far), keeps a session on its version, and goes on with a turn whose stream broke (``turns.py``).

Every method raises subclasses of ``WeftError`` (the tree is in ``weft.errors``) and nothing else that a
service, the network or a wrong value caused.
"""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Final

from grpc import aio
from opentelemetry import trace

from weft import checks, convert, wire
from weft.answers import Answer, Epoch, IngestResult, Job, SearchResult
from weft.channel import Dial
from weft.connection import Connection
from weft.errors import Reason, WeftError, error
from weft.ingest import OnProgress, Progress, Source, collect, requests
from weft.job_calls import Jobs
from weft.library_calls import Collections, Documents
from weft.orchestrator.v1 import orchestrator_pb2, orchestrator_pb2_grpc
from weft.retriever.v1 import retriever_pb2, retriever_pb2_grpc
from weft.settings import find_mesh, find_target
from weft.turns import TurnStream, is_break

_DEFAULT_COLLECTION: Final = "collections/default"
_INGEST_TIMEOUT_S: Final = 600.0
_INGEST_TRIES: Final = 4
_INGEST_PAUSE_S: Final = 0.5


class Client:
    """A connection to one mesh, for use in one event loop. Enter it with ``async with``."""

    def __init__(
        self,
        mesh: str | Sequence[str] | None = None,
        *,
        data_dir: str | os.PathLike[str] | None = None,
        tenant: str = "default",
        timeout_s: float = 30.0,
        headers: Mapping[str, str] | None = None,
        target: str | None = None,
        tracer_provider: trace.TracerProvider | None = None,
    ) -> None:
        """Nothing is opened yet.

        Args:
            mesh: control planes, ``host:port``, several separated by commas; unset: that of ``data_dir``, else
                ``WEFT_MESH``, else 127.0.0.1:9500.
            data_dir: directory given to ``weft up --data``; its ``mesh.json`` says where that mesh listens.
            tenant: whose data, 1 to 63 lower-case letters, digits and hyphens.
            timeout_s: deadline of each ``ask`` and ``search`` that names none itself, in seconds.
            headers: call metadata sent with every call; keys that begin with ``weft-route-`` travel along the whole
                chain and are what header routes look at.
            target: gRPC target of a service with ``{service}`` for its name; unset: ``WEFT_TARGET``, else
                ``xds:///{service}``. Anything but xDS needs no control plane.
            tracer_provider: where spans go; unset: OpenTelemetry's global one.

        Raises:
            InvalidArgument: an address, ``tenant``, ``headers`` or ``timeout_s`` is not as described.
            Unavailable: no mesh was started on ``data_dir``.
        """
        dial = Dial(mesh=find_mesh(mesh, data_dir), target=find_target(target))
        self._tracer = (tracer_provider or trace.get_tracer_provider()).get_tracer("weft")
        self._connection = Connection(dial, tenant, headers or {}, self._tracer)
        self._timeout_s = checks.timeout(timeout_s)
        self._epochs: dict[str, Epoch] = {}  # of what this client has ingested, by collection

    @property
    def mesh(self) -> tuple[str, ...]:
        """Addresses of the control planes."""
        return self._connection.dial.mesh

    async def __aenter__(self) -> Client:
        """Connect.

        Raises:
            Unavailable: no control plane answers within 2 s.
            MeshAlreadyBound: this process already belongs to another mesh.
        """
        await self._connection.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._connection.close()

    async def ask(
        self,
        question: str,
        *,
        session: str | None = None,
        collection: str | None = None,
        top_k: int | None = None,
        filter: str = "",
        tools: Sequence[str] | None = None,
        model: str | None = None,
        min_epoch: Epoch | None = None,
        allow_cached: bool = True,
        today: str | None = None,
        timeout_s: float | None = None,
    ) -> Answer:
        """Ask, and wait for the whole answer. The arguments are those of ``stream``.

        Raises:
            InvalidArgument: a value is out of its range; ``field`` says which.
            NotFound: no such session, collection or model for this tenant.
            Aborted: another turn of the session ran until the deadline.
            DeadlineExceeded: the deadline came first.
            Unavailable: no replica answered for 10 s, or the model's backend is gone and nothing stood in. Where a part
                of the answer had come (reason ANSWER_INTERRUPTED, say), ``partial_text`` has it.
        """
        return await self.stream(
            question,
            session=session,
            collection=collection,
            top_k=top_k,
            filter=filter,
            tools=tools,
            model=model,
            min_epoch=min_epoch,
            allow_cached=allow_cached,
            today=today,
            timeout_s=timeout_s,
        ).finish()

    def stream(
        self,
        question: str,
        *,
        session: str | None = None,
        collection: str | None = None,
        top_k: int | None = None,
        filter: str = "",
        tools: Sequence[str] | None = None,
        model: str | None = None,
        min_epoch: Epoch | None = None,
        allow_cached: bool = True,
        today: str | None = None,
        timeout_s: float | None = None,
    ) -> TurnStream:
        """Ask, and take the turn's events as they come: ``async for event in c.stream(...)``.

        ``Started`` is first and ``Finished``, with the Answer, last. The turn begins with the first event that is asked
        for and stops when the iterator is closed or let go of. Errors are those of ``ask``, raised by the iterator.

        Args:
            question: 1 to 8,192 characters.
            session: ``answer.session`` of an earlier turn; unset: a new conversation.
            collection: where to look; unset: "default".
            top_k: passages at the most, 1 to 20; unset: 5.
            filter: what a passage's document must fulfil, as in ``search``; the turn's tools see no others either.
            tools: names of those that may be used, an empty list for none; unset: all.
            model: name of a model; unset: the operator's default.
            min_epoch: look at least this far; unset: as far as this client has ingested.
            allow_cached: whether a frequent answer may come from a cache.
            today: YYYY-MM-DD, for tools that reckon with dates; unset: the server's UTC day.
            timeout_s: deadline of the whole turn in seconds, above 0; unset: the client's.
        """
        timeout_s = self._timeout(timeout_s)
        session_name = checks.resource("sessions", session, "session") if session else ""
        collection_name = checks.resource("collections", collection, "collection") if collection else ""
        request = orchestrator_pb2.ChatRequest(
            session=session_name,
            request_id=uuid.uuid4().hex,
            question=checks.text("question", question),
            collection=collection_name,
            top_k=checks.count("top_k", top_k, 20),
            filter=checks.text("filter", filter),
            model=checks.text("model", model or ""),
            tools=["-"] if tools is not None and not tools else [checks.text("tools", tool) for tool in tools or ()],
            allow_cached=allow_cached,
            today=checks.text("today", today or ""),
        )
        self._set_min_epoch(request, min_epoch)
        metadata = self._connection.turn_metadata(request.request_id, session_name)
        stub = orchestrator_pb2_grpc.OrchestratorServiceStub(self._connection.channel("orchestrator"))

        def open_chat(message: orchestrator_pb2.ChatRequest, remaining_s: float) -> aio.UnaryStreamCall:
            return stub.Chat(message, timeout=remaining_s, metadata=metadata)

        return TurnStream(
            open_chat, request, timeout_s, self._tracer, lambda exc: self._explain(exc, "orchestrator", timeout_s)
        )

    async def search(
        self,
        query: str,
        top_k: int = 5,
        *,
        collection: str | None = None,
        filter: str = "",
        max_per_document: int = 0,
        rerank: bool = False,
        explain: bool = False,
        min_epoch: Epoch | None = None,
        allow_cached: bool = True,
        timeout_s: float | None = None,
    ) -> SearchResult:
        """Find the passages that fit best.

        Args:
            query: 1 to 8,192 characters.
            top_k: hits at the most, 1 to 100.
            collection: where to look; unset: "default".
            filter: what a passage's document must fulfil: 'team = "search" AND year >= 2025'; empty: nothing.
            max_per_document: hits of one document at the most; 0: as many as there are.
            rerank: have the retriever's reranker order the best hits; ``degraded`` says so where it couldn't.
            explain: tell the score of each part (``Hit.parts``) and what matched (``Hit.highlights``).
            min_epoch: look at least this far; unset: as far as this client has ingested.
            allow_cached: whether the answer may come from a cache.
            timeout_s: deadline in seconds, above 0; unset: the client's.

        Raises:
            InvalidArgument: a value is out of its range, ``field`` says which; FILTER_INVALID says where.
            NotFound: no such collection for this tenant.
            FailedPrecondition: EPOCH_NOT_REACHED in time, or EPOCH_FOREIGN: of another store.
            DeadlineExceeded: the deadline came first.
            Unavailable: no retriever can be reached.
        """
        timeout_s = self._timeout(timeout_s)
        collection_name = checks.resource("collections", collection, "collection") if collection else ""
        request = retriever_pb2.SearchRequest(
            collection=collection_name,
            query=checks.text("query", query),
            top_k=checks.count("top_k", top_k, 100),
            filter=checks.text("filter", filter),
            max_per_document=checks.count("max_per_document", max_per_document, 100, low=0),
            rerank=rerank,
            explain=explain,
            allow_cached=allow_cached,
        )
        self._set_min_epoch(request, min_epoch)
        stub = retriever_pb2_grpc.RetrieverServiceStub(self._connection.channel("retriever"))
        try:
            response = await stub.Search(
                request, timeout=timeout_s, metadata=self._connection.metadata(uuid.uuid4().hex)
            )
        except aio.AioRpcError as exc:
            raise self._explain(exc, "retriever", timeout_s) from exc
        return convert.search_result(response)

    async def ingest(
        self,
        paths: Source | Iterable[Source],
        *,
        collection: str | None = None,
        on_progress: OnProgress | None = None,
        detach: bool = False,
        timeout_s: float = _INGEST_TIMEOUT_S,
    ) -> IngestResult:
        """Take documents in; when this returns, searches and asks of this client find them.

        A document that can't be taken in is named in ``failed`` and harms no other. The same content again changes
        nothing; changed content replaces the old.

        Args:
            paths: files, folders (walked for text, Markdown, HTML, PDF and Word) and ``Document`` objects, one or many.
            collection: where to put them, made if absent; unset: "default".
            on_progress: called once for each document, in the event loop; not with ``detach``.
            detach: return when all is uploaded; the result's ``job`` does the rest, see ``jobs``.
            timeout_s: deadline of the whole upload in seconds, above 0.

        Raises:
            InvalidArgument: a path isn't there or can't be read, or a folder holds nothing readable.
            DeadlineExceeded: the deadline came first; what is in, is in.
            Unavailable: no retriever can be reached.
        """
        checks.timeout(timeout_s)
        collection_name = checks.resource("collections", collection, "collection") if collection else ""
        uploads = await asyncio.to_thread(collect, paths)
        progress = Progress(uploads, on_progress)
        try:
            async with asyncio.timeout(timeout_s):
                await self._upload(progress, collection_name, uuid.uuid4().hex if detach else None, timeout_s)
        except TimeoutError:
            raise error(
                Reason.DEADLINE_EXCEEDED,
                f"{len(progress.waiting)} of {len(uploads)} documents were not in after {timeout_s:g} s; "
                "those that are in stay in, so the same call again does the rest",
                waiting=len(progress.waiting),
                documents=len(uploads),
                timeout_s=timeout_s,
            ) from None
        result = progress.result()
        if result.epoch is not None:
            self._epochs[collection_name or _DEFAULT_COLLECTION] = result.epoch
        return result

    async def _upload(self, progress: Progress, collection: str, detached: str | None, timeout_s: float) -> None:
        tries_left = _INGEST_TRIES
        while True:
            before = len(progress.waiting)
            try:
                return await self._upload_once(progress, collection, detached, timeout_s)
            except aio.AioRpcError as exc:
                failure = self._explain(exc, "retriever", timeout_s)
                tries_left = _INGEST_TRIES if len(progress.waiting) < before else tries_left - 1
                broke = is_break(exc, failure) or failure.reason == Reason.UPLOAD_INCOMPLETE  # we were silent for long
                if not broke or tries_left == 0:
                    raise failure from exc
            await asyncio.sleep(_INGEST_PAUSE_S)

    async def _upload_once(self, progress: Progress, collection: str, detached: str | None, timeout_s: float) -> None:
        # A new one for each try, which sends other documents; detached, all are sent again and it is the same ingest.
        request_id = detached or uuid.uuid4().hex
        stub = retriever_pb2_grpc.RetrieverServiceStub(self._connection.channel("retriever"))
        messages = requests(progress, collection, request_id, detach=detached is not None)
        call = stub.IngestDocuments(messages, timeout=timeout_s, metadata=self._connection.metadata(request_id))
        try:
            async for message in call:
                progress.take(message)
        except asyncio.CancelledError:
            if progress.read_error is not None:  # gRPC cancels a call whose requests can't be had
                raise progress.read_error from None
            raise
        finally:
            call.cancel()
        if progress.finished is None:
            raise error(Reason.INTERNAL, "the ingest's stream ended without `finished`")

    @property
    def collections(self) -> Collections:
        """Sets of documents: listing, making, deleting."""
        return Collections(self._connection, self._timeout_s, self._epochs.__setitem__)

    @property
    def documents(self) -> Documents:
        """What was ingested: listing, deleting."""
        return Documents(self._connection, self._timeout_s, self._epochs.__setitem__)

    @property
    def jobs(self) -> Jobs:
        """Long work: detached ingests, moves of collections."""
        return Jobs(self._connection, self._timeout_s)

    async def reindex(self, collection: str, embedder: str, *, timeout_s: float | None = None) -> Job:
        """Move a collection to another embedder; returns the job that does it, see ``jobs``.

        Searches, asks and ingests go on meanwhile; in the end the collection changes over at once.

        Args:
            collection: its name.
            embedder: URL, such as "minilm:".
            timeout_s: deadline of asking for it, in seconds, above 0; unset: the client's.

        Raises:
            NotFound: no such collection.
            FailedPrecondition: the embedder can't be had, or another job moves the collection elsewhere.
        """
        timeout_s = self._timeout(timeout_s)
        request = retriever_pb2.ReindexCollectionRequest(
            name=checks.resource("collections", collection, "collection"), embedder=checks.text("embedder", embedder)
        )
        stub = retriever_pb2_grpc.RetrieverServiceStub(self._connection.channel("retriever"))
        metadata = self._connection.metadata(uuid.uuid4().hex)
        try:
            reply = await stub.ReindexCollection(request, timeout=timeout_s, metadata=metadata)
        except aio.AioRpcError as exc:
            raise self._explain(exc, "retriever", timeout_s) from exc
        return await self.jobs.get(reply.job)

    def _timeout(self, timeout_s: float | None) -> float:
        return self._timeout_s if timeout_s is None else checks.timeout(timeout_s)

    def _set_min_epoch(
        self, request: orchestrator_pb2.ChatRequest | retriever_pb2.SearchRequest, given: Epoch | None
    ) -> None:
        epoch = given or self._epochs.get(request.collection or _DEFAULT_COLLECTION)
        if epoch is not None:
            wire.put_epoch(request.min_epoch, epoch)

    def _explain(self, exc: aio.AioRpcError, service: str, timeout_s: float) -> WeftError:
        failure = self._connection.explain(exc, service, timeout_s)
        if failure.reason == Reason.EPOCH_FOREIGN:
            self._epochs.clear()  # the store was replaced: what we knew of the old one is void
        return failure
