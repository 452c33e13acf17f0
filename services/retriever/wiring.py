"""Puts a retriever together: a straight line of constructors, and what has to be closed in its turn."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

from mesh import plugins
from mesh.app import Runtime
from mesh.jobs import service
from mesh.plugins import Url
from mesh.server import Binding
from services.retriever.documents.parsing import Parsers
from services.retriever.embedding import Embedders, open_plugin
from services.retriever.ingest.preparing import Preparer
from services.retriever.ingest.sweeping import sweep_half_made, sweep_log
from services.retriever.ingest.workshop import workshop
from services.retriever.library import Library
from services.retriever.ports import EmbedderFiles, Log, SharedIndex, VectorIndexes
from services.retriever.replicas.applying import Applier
from services.retriever.replicas.keeping import Keeper
from services.retriever.replicas.merging import Merger
from services.retriever.replicas.replica import Replica
from services.retriever.search.queries import QueryVectors
from services.retriever.search.searching import Searcher
from services.retriever.search.sharing import Elsewhere, SharedSide
from services.retriever.servicer import RetrieverServicer
from services.retriever.settings import LOGS, RERANKERS, Settings
from services.retriever.workers import Workers
from weft.errors import Reason, WeftError
from weft.retriever.v1 import retriever_pb2, retriever_pb2_grpc

_log = logging.getLogger(__name__)
_WAITING_PER_THREAD = 128
_QUERY_EMBEDDINGS_AT_ONCE = 4  # calls of remote embedders, each a batch; idle with others


@asynccontextmanager
async def build(settings: Settings, runtime: Runtime) -> AsyncIterator[Sequence[Binding]]:
    """The retriever's servicer, ready to serve: the log is open and all that is in it is loaded.

    With a snapshot only the log's tail is read.
    """
    options = settings.retriever
    async with AsyncExitStack() as stack:
        store_url = Url.parse(settings.store)
        log: Log = await plugins.load(LOGS, store_url).open(store_url)
        stack.push_async_callback(log.close)
        search_threads, ingest_threads = options.thread_counts
        searching = _workers(stack, "search", search_threads)
        ingesting = _workers(stack, "ingest", ingest_threads, behind=searching)
        reranker_url = Url.parse(options.reranker)
        reranker = plugins.load(RERANKERS, reranker_url).open(reranker_url)
        vectors = QueryVectors(_workers(stack, "query-embedding", _QUERY_EMBEDDINGS_AT_ONCE))
        stack.push_async_callback(vectors.close)
        applying = _workers(stack, "apply", 1)
        merging = _workers(stack, "merge", 1, behind=searching)
        keeping = _workers(stack, "keep", 1, behind=searching)
        parsers = Parsers(options.limits, options.parser_count)
        stack.push_async_callback(parsers.close)
        keys = {host: key.get_secret_value() for host, key in options.embedder_api_keys.items()}
        opener = partial(open_plugin, files=EmbedderFiles(options.model_cache_dir, keys))
        embedders = Embedders(options.embedder, opener, ingesting, options.embedders)
        stack.callback(embedders.close)
        index_url = Url.parse(options.index)
        index: VectorIndexes | SharedIndex = plugins.load("services.retriever.indexes", index_url).open(index_url)
        shared: SharedSide | None = None
        if isinstance(index, SharedIndex):
            shared = SharedSide(index, searching)
            stack.push_async_callback(index.close)
            stack.push_async_callback(shared.close)
            await shared.start(log.log_id)
        replica = Replica(log, Elsewhere() if isinstance(index, SharedIndex) else index, applying)
        await _open_default(embedders)
        keeper = Keeper(settings.local_dir / "snapshots", log.log_id, replica, keeping, runtime.registry)
        stack.callback(keeper.close)
        await keeper.start()
        await replica.load()
        preparer = Preparer(log, ingesting, parsers)
        shop = await stack.enter_async_context(workshop(settings, runtime, log, embedders, preparer))
        duties = [replica.follow(), Merger(replica, merging).run(), keeper.run(), *shop.duties]
        duties += [sweep_log(log), sweep_half_made(shop.jobs, log, replica)]
        if shared is not None and isinstance(index, SharedIndex):
            duties += [shared.follow(), Applier(log, index).run()]
        for duty in duties:
            stack.push_async_callback(_cancelled, _own(asyncio.create_task(duty), runtime))
        servicer = RetrieverServicer(
            Library(log, replica, embedders, shop.jobs),
            Searcher(replica, embedders, searching, vectors, reranker, shared),
            shop.receiver,
            log.log_id,
            options.max_document_bytes,
        )
        descriptor = retriever_pb2.DESCRIPTOR.services_by_name["RetrieverService"]
        yield [
            Binding(descriptor, retriever_pb2_grpc.add_RetrieverServiceServicer_to_server, servicer),
            service.binding(shop.jobs),
        ]


def _workers(stack: AsyncExitStack, name: str, threads: int, behind: Workers | None = None) -> Workers:
    workers = Workers(name, threads, threads * _WAITING_PER_THREAD, behind=behind)
    stack.callback(workers.close)
    return workers


async def _open_default(embedders: Embedders) -> None:
    """Open the default embedder now rather than in somebody's search. Without its model the service still runs."""
    try:
        await embedders.get(embedders.default_url)
    except WeftError as err:
        if err.reason != Reason.EMBEDDER_UNAVAILABLE:
            raise


def _own(task: asyncio.Task[None], runtime: Runtime) -> asyncio.Task[None]:
    """A duty that ends by itself ends the process: what it kept up would be wrong from then on."""

    def ended(done: asyncio.Task[None]) -> None:
        if not done.cancelled() and (failure := done.exception()) is not None:
            runtime.fail(failure)

    task.add_done_callback(ended)
    return task


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError, Exception):
        await task
