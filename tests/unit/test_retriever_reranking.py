"""Reranking: a model that reads query and passage together reorders the best hits, in time or not at all."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from mesh.deadline import Deadline
from mesh.plugins import Url
from services.retriever.ports import Scores
from services.retriever.search.searching import Searcher
from services.retriever.types import Found, Query
from tests.support.retrieval import KEY, House, house, put
from weft.errors import WeftError

TEXTS = {"a": "fox fox fox", "b": "a fox that runs far", "c": "the fox sleeps", "d": "no such animal"}


class ByLength:
    """Prefers long passages. May hang, or fail."""

    url = "length:"

    def __init__(self) -> None:
        self.read: list[int] = []
        self.let = threading.Event()
        self.let.set()
        self.broken = False

    def scores(self, query: str, passages: Sequence[str]) -> Scores:
        self.read.append(len(passages))
        assert self.let.wait(5)
        if self.broken:
            raise RuntimeError("no")
        return np.array([len(passage) for passage in passages], np.float32)


async def reranking(one: House, reranker: ByLength | None) -> Searcher:
    made = await one.library.create_collection(KEY, "")
    for name, text in TEXTS.items():
        await put(one.log, made, name, text)
    await one.replica.load()
    return Searcher(one.replica, one.embedders, one.workers, one.vectors, reranker)


async def search(searcher: Searcher, within_s: float = 5, **fields: object) -> Found:
    query = Query(KEY, "fox", rerank=True, **fields)  # type: ignore[arg-type]
    return await searcher.search(query, Deadline.after(within_s))


def sources(found: Found) -> list[str]:
    return [hit.document.source for hit in found.hits]


async def test_the_rerankers_order_is_that_of_the_answer(tmp_path: Path) -> None:
    async with house(tmp_path, embedder="none:") as one:
        reranker = ByLength()
        searcher = await reranking(one, reranker)
        found = await search(searcher, top_k=2, explain=True)
        assert sources(found) == ["b", "c"]  # the shortest was best before
        assert (reranker.read, found.lacks) == ([3], ())
        first = found.hits[0]
        assert first.score == first.parts["rerank"] == len(TEXTS["b"])
        assert first.parts["fused"] == first.parts["lexical"]


async def test_reranked_answers_are_remembered_apart_from_others(tmp_path: Path) -> None:
    async with house(tmp_path, embedder="none:") as one:
        reranker = ByLength()
        searcher = await reranking(one, reranker)
        plain = await searcher.search(Query(KEY, "fox", top_k=2), Deadline.after(5))
        assert sources(plain)[0] == "a"
        assert not (await search(searcher, top_k=2)).cached
        assert (await search(searcher, top_k=2)).cached
        assert len(reranker.read) == 1


async def test_without_one_the_fused_order_stands_and_the_answer_says_so(tmp_path: Path) -> None:
    async with house(tmp_path, embedder="none:") as one:
        found = await search(await reranking(one, None), top_k=1)
        assert sources(found) == ["a"]
        assert [(lack.stage, lack.fallback) for lack in found.lacks] == [("reranking", "fused_order")]


@pytest.mark.parametrize("trouble", ["hangs", "fails"])
async def test_one_that_fails_or_takes_too_long_costs_nothing_but_its_order(trouble: str, tmp_path: Path) -> None:
    async with house(tmp_path, embedder="none:") as one:
        reranker = ByLength()
        searcher = await reranking(one, reranker)
        reranker.broken = trouble == "fails"
        if trouble == "hangs":
            reranker.let.clear()
        found = await search(searcher, 0.3, top_k=1)
        reranker.let.set()
        assert sources(found) == ["a"]
        assert [lack.reason for lack in found.lacks] == ["DEPENDENCY_UNAVAILABLE"]
        reranker.broken = False
        assert (await search(searcher, top_k=1)).lacks == ()


def test_a_cross_encoder_is_read_from_its_directory(tmp_path: Path) -> None:
    """A small one: a pair's number is the sum of its tokens' numbers, so longer passages win."""
    onnx = pytest.importorskip("onnx")
    tokenizers = pytest.importorskip("tokenizers")
    from services.retriever.rerankers.onnx import open as open_reranker

    helper = onnx.helper
    nodes = [
        helper.make_node("Cast", ["input_ids"], ["numbers"], to=onnx.TensorProto.FLOAT),
        helper.make_node("ReduceSum", ["numbers", "axes"], ["logits"], keepdims=1),
    ]
    ids = helper.make_tensor_value_info("input_ids", onnx.TensorProto.INT64, ["batch", "tokens"])
    out = helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["batch", 1])
    axes = onnx.numpy_helper.from_array(np.array([1], np.int64), "axes")
    graph = helper.make_graph(nodes, "tiny", [ids], [out], [axes])
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), tmp_path / "model.onnx"
    )
    words = tokenizers.models.WordLevel({"[UNK]": 0, "one": 1, "ten": 10}, unk_token="[UNK]")
    tokenizer = tokenizers.Tokenizer(words)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    model = open_reranker(Url.parse(f"onnx://{tmp_path}?max_tokens=4"))
    assert model.scores("one", ["one", "ten one", "ten ten ten ten", ""]).tolist() == [2, 12, 31, 1]
    assert model.scores("one", []).tolist() == []


@pytest.mark.parametrize(
    ("url", "reason"), [("onnx:///nowhere", "EMBEDDER_UNAVAILABLE"), ("onnx:///nowhere?x=1", "INVALID_FIELD")]
)
def test_one_that_is_not_there_is_told(url: str, reason: str) -> None:
    pytest.importorskip("onnxruntime")
    from services.retriever.rerankers.onnx import open as open_reranker

    with pytest.raises(WeftError) as caught:
        open_reranker(Url.parse(url))
    assert caught.value.reason == reason
