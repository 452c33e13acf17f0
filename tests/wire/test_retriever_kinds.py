"""Documents of many kinds over the wire: where a passage stands comes with it, and a hostile one harms no other."""

from __future__ import annotations

from pathlib import Path

from services.retriever.documents import reading
from tests.support import documents
from tests.support.documents import page_of_words
from tests.support.retriever_server import epoch_of, header, served, start
from tests.unit import test_retriever_hostile as hostile
from weft.retriever.v1 import retriever_pb2 as pb

WORDS = "Words fill the page and say what they say. " * 10


async def test_a_hit_says_the_page_and_the_section_it_is_from(tmp_path: Path) -> None:
    pages = [page_of_words(f"Here is thing{n}. {WORDS}", heading=f"Part {n}") for n in range(1, 21)]
    async with served(tmp_path) as retriever:
        outcome = await retriever.ingest({"book.pdf": documents.pdf(pages, title="The book")})
        (hit,) = (await retriever.search("thing12", top_k=1, min_epoch=epoch_of(outcome))).hits
    assert (hit.passage.title, hit.passage.page, hit.passage.section) == ("The book", 12, "Part 12")


async def test_every_kind_goes_in_and_is_found(tmp_path: Path) -> None:
    files = {
        "a.txt": "Größe of the alpha".encode("cp1252"),
        "b.md": b"# Title\n\nthe beta",
        "c.html": b"<!doctype html><title>Page</title><nav>no</nav><h2>Deep</h2><p>the gamma",
        "d.pdf": documents.pdf([page_of_words("the delta")]),
        "e.docx": documents.word(("Heading 1", "Start"), ("", "the epsilon")),
        "f.txt": documents.pdf([page_of_words("the zeta")]),
    }
    async with served(tmp_path) as retriever:
        outcome = await retriever.ingest(files)
        assert not outcome.finished.failed
        for word, source in zip(("größe", "beta", "gamma", "delta", "epsilon", "zeta"), files, strict=True):
            assert (await retriever.sources(word, top_k=1, min_epoch=epoch_of(outcome))) == [source]
        assert not (await retriever.search("no")).hits
        records = await retriever.stub.ListDocuments(pb.ListDocumentsRequest())
    assert {record.source: record.mime_type for record in records.documents} == {
        "a.txt": "text/plain",
        "b.md": "text/markdown",
        "c.html": "text/html",
        "d.pdf": "application/pdf",
        "e.docx": reading.DOCX,
        "f.txt": "application/pdf",
    }


async def test_a_declared_charset_is_honoured(tmp_path: Path) -> None:
    async with served(tmp_path) as retriever:
        declared = header("a.txt", mime_type="text/plain; charset=windows-1254")
        outcome = await retriever.ingest([start(), declared, pb.IngestDocumentsRequest(data="ışık".encode("cp1254"))])
        assert await retriever.sources("ışık", min_epoch=epoch_of(outcome)) == ["a.txt"]


async def test_hostile_documents_among_good_ones_fail_alone_and_say_why(tmp_path: Path) -> None:
    files = {
        "first.pdf": documents.pdf([page_of_words("the first")]),
        "bomb.pdf": hostile.stream_bomb(),
        "bomb.docx": hostile.zip_bomb(),
        "second.md": "the second",
        "hangs.html": hostile.html_of_attributes(),
        "loop.pdf": hostile.page_tree_without_end(),
        "cut.pdf": documents.pdf([page_of_words(WORDS)])[:-99],
        "scan.pdf": documents.pdf([[], []]),
        "long.pdf": documents.pdf([page_of_words("x")] * 30),
        "last.docx": documents.word(("", "the last")),
    }
    limits = {"max_expanded_bytes": 16 << 20, "parse_timeout_s": 4, "max_document_pages": 20}
    async with served(tmp_path, **limits) as retriever:
        outcome = await retriever.ingest(files)
        failed = {progress.source: progress.error for progress in outcome.finished.failed}
        assert {source: (error.reason, error.metadata["limit"]) for source, error in failed.items()} == {
            "bomb.pdf": ("DOCUMENT_TOO_LARGE", "expanded_bytes"),
            "bomb.docx": ("DOCUMENT_TOO_LARGE", "expanded_bytes"),
            "hangs.html": ("DOCUMENT_TOO_LARGE", "time"),
            "loop.pdf": ("DOCUMENT_UNREADABLE", ""),
            "cut.pdf": ("DOCUMENT_UNREADABLE", ""),
            "scan.pdf": ("DOCUMENT_EMPTY", ""),
            "long.pdf": ("DOCUMENT_TOO_LARGE", "pages"),
        }
        found = await retriever.sources("the", min_epoch=epoch_of(outcome))
        assert sorted(found) == ["first.pdf", "last.docx", "second.md"]
        assert not retriever.failures
