"""The embedders of a process: opened once, by URL, when something first needs them.

A collection remembers the URL and the dimension that it was made with. A replica whose embedder can't be
opened (its model isn't there, its library isn't installed) keeps running: it searches by words alone and
refuses to take documents in, and says why each time. It doesn't try again; a restart does.

Whoever makes a collection chooses its embedder by URL, and a URL may lead to a server or into the file system:
those that name a host or a path must be the operator's own, the default or one of WEFT_RETRIEVER__EMBEDDERS.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from mesh import plugins
from mesh.plugins import Url
from services.retriever.ports import Embedder, EmbedderFiles
from services.retriever.workers import Workers
from weft.errors import Reason, WeftError, error

_log = logging.getLogger(__name__)
PACKAGE = "services.retriever.embedders"


class Embedders:
    """Embedders by URL. ``opener`` may take long; it runs on ``workers``. ``others``: what the operator allows."""

    def __init__(
        self, default_url: str, opener: Callable[[str], Embedder], workers: Workers, others: Sequence[str] = ()
    ) -> None:
        self.default_url = default_url
        self._operators = {default_url, *others}
        self._opener, self._workers = opener, workers
        self._opened: dict[str, asyncio.Future[Embedder]] = {}

    async def get(self, url: str, dimension: int | None = None) -> Embedder:
        """The embedder of ``url``, checked to make vectors of ``dimension`` where that is given.

        Raises:
            WeftError: EMBEDDER_UNAVAILABLE when it can't be opened or makes others; INVALID_FIELD when
                there is no such kind of embedder.
        """
        opened = self._opened.get(url)
        if opened is None:
            self._check_allowed(url)
            opened = self._opened[url] = asyncio.ensure_future(self._workers.run(self._opener, url))
            opened.add_done_callback(_log_failure)
        try:
            embedder = await asyncio.shield(opened)  # others wait for the same one
        except WeftError as err:
            if err.reason != Reason.EMBEDDER_UNAVAILABLE:
                self._opened.pop(url, None)  # a URL that means nothing, or no thread was free: nothing to remember
            raise
        if dimension is not None and embedder.dimension != dimension:
            raise error(
                Reason.EMBEDDER_UNAVAILABLE,
                f"{url} makes vectors of {embedder.dimension} dimensions here, the collection has {dimension}; "
                "use the embedder that it was made with",
                embedder=url,
                dimension=embedder.dimension,
                expected=dimension,
            )
        return embedder

    def close(self) -> None:
        """Close those that are open."""
        for opened in self._opened.values():
            if opened.done() and not opened.cancelled() and opened.exception() is None:
                opened.result().close()

    def _check_allowed(self, raw: str) -> None:
        url = Url.parse(raw)
        if raw not in self._operators and (url.host or url.path):
            raise error(
                Reason.EMBEDDER_UNAVAILABLE,
                f"the embedder {url} is not one of this replica's; the operator names those that lead to a server or "
                "a directory in WEFT_RETRIEVER__EMBEDDERS",
                embedder=url,
            )

    async def for_new(self, url: str) -> Embedder:
        """The embedder for a new collection: ``url``, or the default where that is empty, and where the
        default can't be opened, none.

        Raises:
            WeftError: as ``get``, for a ``url`` that was asked for by name.
        """
        if url:
            return await self.get(url)
        try:
            return await self.get(self.default_url)
        except WeftError as err:
            if err.reason != Reason.EMBEDDER_UNAVAILABLE:
                raise
            return await self.get("none:")


def _log_failure(opened: asyncio.Future[Embedder]) -> None:
    failure = None if opened.cancelled() else opened.exception()
    if isinstance(failure, WeftError) and failure.reason == Reason.EMBEDDER_UNAVAILABLE:
        _log.warning("an embedder is not to be had, words alone will be compared: %s", failure)


def plain(url: Url) -> None:
    """Refuse a URL that says more than its scheme: every spelling would be an embedder of its own.

    Raises:
        WeftError: INVALID_FIELD.
    """
    if url.raw != f"{url.scheme}:":
        raise error(
            Reason.INVALID_FIELD,
            f"embedder: {str(url)[:80]!r} says more than is known here; write {url.scheme}:",
            field="embedder",
            value=str(url)[:80],
        )


def only(url: Url, parameters: Sequence[str]) -> None:
    """Refuse a URL with other parameters than these.

    Raises:
        WeftError: INVALID_FIELD.
    """
    for name in url.query:
        if name not in parameters:
            raise error(
                Reason.INVALID_FIELD,
                f"embedder: {url} has the parameter {name[:40]!r}; {url.scheme}: knows {', '.join(parameters)}",
                field="embedder",
                parameter=name[:40],
            )


def whole_number(url: Url, name: str, default: int) -> int:
    """A parameter that is a whole number, at least 1.

    Raises:
        WeftError: INVALID_FIELD.
    """
    text = url.query.get(name, "")
    if not text:
        return default
    if not text.isascii() or not text.isdigit() or len(text) > 9 or int(text) < 1:
        raise error(
            Reason.INVALID_FIELD,
            f"embedder: {name} is {text[:40]!r} in {url}; it is a whole number, 1 and up",
            field="embedder",
            parameter=name,
        )
    return int(text)


def open_plugin(raw: str, files: EmbedderFiles) -> Embedder:
    """Open the embedder that a URL names.

    Raises:
        WeftError: INVALID_FIELD when there is no such kind; EMBEDDER_UNAVAILABLE when its library or its
            model isn't there.
    """
    url = Url.parse(raw)
    try:
        embedder: Embedder = plugins.load(PACKAGE, url).open(url, files)
    except WeftError as err:
        if "package" not in err.metadata:
            raise
        raise _unavailable(url, err.message) from err
    except Exception as exc:  # a library that doesn't load, a model that its runtime won't take
        raise _unavailable(url, f"{type(exc).__name__}: {exc}") from exc
    return embedder


def _unavailable(url: Url, problem: str) -> WeftError:
    return error(
        Reason.EMBEDDER_UNAVAILABLE,
        f"the embedder {url} cannot be opened: {problem}",
        embedder=url,
        problem=problem,
    )
