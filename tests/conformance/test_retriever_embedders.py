"""What every embedder does alike, each with a real model behind it; then what is one's own."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from mesh.plugins import Url
from mesh.settings import load, masked
from services.retriever.embedders.none import NoEmbedder
from services.retriever.embedding import Embedders, open_plugin
from services.retriever.ports import Embedder, EmbedderFiles
from services.retriever.settings import Settings
from services.retriever.types import Vectors
from services.retriever.workers import Workers
from tests.support.embedding_server import EmbeddingServer, embedding_server
from tests.support.models import model_cache
from tests.support.retrieval import BagOfWords
from weft.errors import WeftError

onnxruntime = pytest.importorskip("onnxruntime")
TEXTS = ["The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium.", "黑豹队的防守"]
ODD = ["", " ", "\u200b", "🙂", "x" * 20_000, "\n\n", "a\x00b"]


@cache
def minilm() -> Embedder:
    return open_plugin("minilm:", EmbedderFiles(model_cache()))


def minilm_folder() -> Path:
    from services.retriever.minilm.store import find

    folder = find(model_cache())
    assert folder is not None
    return folder


@pytest.fixture
def server() -> Iterator[EmbeddingServer]:
    with embedding_server(minilm()) as served:
        yield served


@pytest.fixture(params=["minilm", "onnx", "openai", "none"])
def embedder(request: pytest.FixtureRequest) -> Iterator[Embedder]:
    if request.param == "minilm":
        yield minilm()
    elif request.param == "onnx":
        yield open_plugin(f"onnx://{minilm_folder()}", EmbedderFiles(None))
    elif request.param == "none":
        yield NoEmbedder()
    else:
        pytest.importorskip("tenacity")
        made = open_plugin(request.getfixturevalue("server").url(), EmbedderFiles(None))
        yield made
        made.close()


def test_a_row_per_text_of_its_dimension_and_length_one(embedder: Embedder) -> None:
    for rows in (embedder.embed(TEXTS), embedder.embed_queries(TEXTS)):
        assert (rows.shape, rows.dtype) == ((len(TEXTS), embedder.dimension), np.float32)
        if embedder.dimension:
            assert np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)


def test_no_texts_give_no_rows(embedder: Embedder) -> None:
    assert embedder.embed([]).shape == (0, embedder.dimension)
    assert embedder.embed_queries([]).shape == (0, embedder.dimension)


def test_odd_texts_have_vectors_too(embedder: Embedder) -> None:
    rows = embedder.embed(ODD)
    assert rows.shape == (len(ODD), embedder.dimension)
    assert np.isfinite(rows).all()


def test_a_vector_does_not_depend_on_its_company(embedder: Embedder) -> None:
    together = embedder.embed(TEXTS)
    alone = np.concatenate([embedder.embed([text]) for text in TEXTS])
    assert np.allclose(together, alone, atol=1e-6)


def test_what_means_the_same_is_nearer_than_what_does_not(embedder: Embedder) -> None:
    if not embedder.dimension:
        pytest.skip("it has no vectors")
    rows = embedder.embed(TEXTS)
    assert float(rows[0] @ rows[1]) > 0.4 > float(rows[0] @ rows[2])


def test_threads_get_what_one_gets(embedder: Embedder) -> None:
    expected = embedder.embed(TEXTS)
    with ThreadPoolExecutor(8) as threads:
        for rows in threads.map(lambda _: embedder.embed(TEXTS), range(24)):
            assert np.allclose(rows, expected, atol=1e-6)


def test_knowledge_is_a_share(embedder: Embedder) -> None:
    for text in (*TEXTS, *ODD):
        assert 0 <= embedder.knowledge(text) <= 1
    assert embedder.query_batch >= 1


def test_many_texts_keep_their_order(embedder: Embedder) -> None:
    texts = [f"text number {number}" for number in range(70)]
    assert np.allclose(embedder.embed(texts)[[0, 40, 69]], embedder.embed([texts[0], texts[40], texts[69]]), atol=1e-6)


# -- onnx ------------------------------------------------------------------------------------------------

TOKENS = {"[UNK]": 0, "red": 1, "green": 2, "blue": 3}
TABLE = np.array([[1, 0, 0], [4, 0, 0], [0, 2, 0], [0, 0, 6]], np.float32)


def model_folder(place: Path, **files: object) -> Path:
    """A model whose token vectors are those of ``TABLE``, with configuration ``files`` beside it."""
    onnx = pytest.importorskip("onnx")
    from tokenizers import Tokenizer, models, pre_tokenizers

    node = onnx.helper.make_node("Gather", ["table", "input_ids"], ["last_hidden_state"])
    ids = onnx.helper.make_tensor_value_info("input_ids", onnx.TensorProto.INT64, ["batch", "tokens"])
    out = onnx.helper.make_tensor_value_info("last_hidden_state", onnx.TensorProto.FLOAT, ["batch", "tokens", 3])
    graph = onnx.helper.make_graph([node], "tiny", [ids], [out], [onnx.numpy_helper.from_array(TABLE, "table")])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9)
    (place / "onnx").mkdir()
    onnx.save(model, place / "onnx" / "model.onnx")
    tokenizer = Tokenizer(models.WordLevel(TOKENS, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(place / "tokenizer.json"))
    for name, content in files.items():
        path = place / name.replace("__", "/")
        path.parent.mkdir(exist_ok=True)
        path.with_suffix(".json").write_text(json.dumps(content))
    return place


def unit(*numbers: float) -> Vectors:
    row = np.array([numbers], np.float32)
    return row / np.linalg.norm(row)


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [("mean", (4, 2, 6)), ("cls", (4, 0, 0)), ("last", (0, 0, 6)), ("max", (4, 2, 6))],
)
def test_token_vectors_become_one_as_the_url_says(pooling: str, expected: tuple[int, ...], tmp_path: Path) -> None:
    folder = model_folder(tmp_path)
    opened = open_plugin(f"onnx://{folder}?pooling={pooling}", EmbedderFiles(None))
    assert opened.dimension == 3
    assert np.allclose(opened.embed(["red green blue"]), unit(*expected))


def test_pooling_length_and_prompts_are_read_from_the_models_own_files(tmp_path: Path) -> None:
    folder = model_folder(
        tmp_path,
        **{
            "1_Pooling__config": {"pooling_mode_lasttoken": True, "pooling_mode_mean_tokens": False},
            "sentence_bert_config": {"max_seq_length": 2},
            "config_sentence_transformers": {"prompts": {"query": "red ", "document": "green "}},
        },
    )
    opened = open_plugin(f"onnx://{folder}", EmbedderFiles(None))
    assert np.allclose(opened.embed(["blue red"]), unit(0, 0, 6))  # green blue, cut after two
    assert np.allclose(opened.embed_queries(["green blue"]), unit(0, 2, 0))
    longer = open_plugin(f"onnx://{folder}?max_tokens=3", EmbedderFiles(None))
    assert np.allclose(longer.embed(["blue red"]), unit(4, 0, 0))
    assert (opened.knowledge("red green"), opened.knowledge("rot green"), opened.knowledge("rot")) == (1, 5 / 8, 0)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("onnx:///nowhere", "EMBEDDER_UNAVAILABLE"),
        ("onnx:", "INVALID_FIELD"),
        ("onnx://host/path", "INVALID_FIELD"),
        ("onnx:///tmp?pooling=sum", "INVALID_FIELD"),
        ("onnx:///tmp?poling=mean", "INVALID_FIELD"),
        ("onnx:///tmp?max_tokens=-1", "EMBEDDER_UNAVAILABLE"),
        ("openai://host/v1", "INVALID_FIELD"),
        ("openai://host/v1?model=m", "INVALID_FIELD"),
        ("openai://host/v1?model=m&dimension=0", "INVALID_FIELD"),
        ("openai://host/v1?model=m&dimension=many", "INVALID_FIELD"),
        ("openai://:key@host/v1?model=m&dimension=3", "INVALID_FIELD"),
        ("openai:///v1?model=m&dimension=3", "INVALID_FIELD"),
    ],
)
def test_a_url_that_cannot_be_is_refused(url: str, reason: str) -> None:
    with pytest.raises(WeftError) as caught:
        open_plugin(url, EmbedderFiles(None))
    assert caught.value.reason == reason


# -- openai ----------------------------------------------------------------------------------------------


@pytest.fixture
def opened(server: EmbeddingServer) -> Iterator[Callable[..., Embedder]]:
    pytest.importorskip("tenacity")
    made: list[Embedder] = []

    def opening(more: str = "", **files: object) -> Embedder:
        made.append(open_plugin(server.url(more), EmbedderFiles(None, **files)))  # type: ignore[arg-type]
        return made[-1]

    yield opening
    for one in made:
        one.close()


def test_the_servers_vectors_are_the_models_own(server: EmbeddingServer, opened: Callable[..., Embedder]) -> None:
    assert np.allclose(opened().embed(TEXTS), minilm().embed(TEXTS), atol=1e-5)
    opened().embed(["text"] * 70)
    assert [len(request["input"]) for request in server.requests] == [4, 32, 32, 6]


def test_opening_calls_nothing(server: EmbeddingServer, opened: Callable[..., Embedder]) -> None:
    opened()
    assert server.requests == []


def test_prefixes_are_put_before(server: EmbeddingServer, opened: Callable[..., Embedder]) -> None:
    one = opened("&query_prefix=query:%20&passage_prefix=passage:%20")
    one.embed(["a"])
    one.embed_queries(["b"])
    assert [request["input"] for request in server.requests] == [["passage: a"], ["query: b"]]


@pytest.mark.parametrize("faults", [[503], [429, 500]])
def test_a_failure_that_passes_is_tried_again(
    faults: list[int], server: EmbeddingServer, opened: Callable[..., Embedder]
) -> None:
    server.faults = list(faults)
    assert opened().embed(["text"]).shape == (1, 384)
    assert len(server.requests) == len(faults) + 1


@pytest.mark.parametrize(
    ("faults", "tries", "says"),
    [([503] * 9, 3, "503"), ([401], 1, "WEFT_RETRIEVER__EMBEDDER_API_KEYS"), ([400], 1, "not now")],
)
def test_one_that_does_not_is_told(
    faults: list[int], tries: int, says: str, server: EmbeddingServer, opened: Callable[..., Embedder]
) -> None:
    server.faults = faults
    with pytest.raises(WeftError, match=says) as caught:
        opened().embed(["text"])
    assert caught.value.reason == "EMBEDDER_UNAVAILABLE"
    assert len(server.requests) == tries


@pytest.mark.parametrize(
    "garbled",
    [
        b"no json", b"[]", b"{}", b'{"data": [{"index": 0, "embedding": [1, 2]}]}', b'{"data": []}', b"x" * 1_000_000,
        json.dumps({"data": [{"index": 0, "embedding": [0.0] * 384}]}).encode(),
        json.dumps({"data": [{"index": 0, "embedding": [float("nan")] * 384}]}).encode(),
    ],
)  # fmt: skip
def test_an_answer_that_holds_no_vectors_is_told(
    garbled: bytes, server: EmbeddingServer, opened: Callable[..., Embedder]
) -> None:
    server.garbled = garbled
    with pytest.raises(WeftError) as caught:
        opened().embed(["text"])
    assert caught.value.reason == "EMBEDDER_UNAVAILABLE"
    assert len(caught.value.message) < 400


def test_its_key_goes_to_its_host_and_nowhere_else(server: EmbeddingServer, opened: Callable[..., Embedder]) -> None:
    one = opened(api_keys={"127.0.0.1": "sk-secret"})
    one.embed(["text"])
    opened(api_keys={"elsewhere": "sk-secret"}).embed(["text"])
    assert server.keys == ["Bearer sk-secret", None]
    server.faults = [401]
    with pytest.raises(WeftError) as caught:
        one.embed(["text"])
    assert "sk-secret" not in str(caught.value) + str(caught.value.metadata) + repr(one)


def test_a_server_that_is_away_is_told() -> None:
    pytest.importorskip("tenacity")
    one = open_plugin("openai://127.0.0.1:1/v1?model=m&dimension=3", EmbedderFiles(None))
    with pytest.raises(WeftError, match=r"127\.0\.0\.1:1") as caught:
        one.embed(["text"])
    assert caught.value.reason == "EMBEDDER_UNAVAILABLE"
    one.close()


# -- which may be chosen -----------------------------------------------------------------------------------


async def test_only_the_operators_own_may_lead_to_a_server_or_a_directory() -> None:
    asked: list[str] = []

    def opener(url: str) -> Embedder:
        asked.append(url)
        return BagOfWords()

    workers = Workers("test", 1, 10)
    embedders = Embedders("openai://mine/v1", opener, workers, ["onnx:///models/a"])
    for url in ("openai://mine/v1", "onnx:///models/a", "minilm:"):
        await embedders.get(url)
    for url in ("openai://169.254.169.254/v1", "onnx:///etc", "openai://mine/v1?x=1"):
        with pytest.raises(WeftError, match="WEFT_RETRIEVER__EMBEDDERS") as caught:
            await embedders.get(url)
        assert caught.value.reason == "EMBEDDER_UNAVAILABLE"
        with pytest.raises(WeftError):
            await embedders.for_new(url)
    assert asked == ["openai://mine/v1", "onnx:///models/a", "minilm:"]
    workers.close()


def test_a_masked_url_shows_no_password() -> None:
    assert "secret" not in str(Url.parse("openai://me:secret@host/v1?model=m&api_key=secret"))


def test_keys_are_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEFT_RETRIEVER__EMBEDDER_API_KEYS", "host.example=sk-secret, other=sk-more")
    options = load(Settings)
    assert options.retriever.embedder_api_keys["host.example"].get_secret_value() == "sk-secret"
    assert "sk-" not in json.dumps(masked(options)) + repr(options)
    monkeypatch.setenv("WEFT_RETRIEVER__EMBEDDER_API_KEYS", "sk-secret")
    with pytest.raises(WeftError, match="host=key") as caught:
        load(Settings)
    assert "sk-secret" not in caught.value.message
