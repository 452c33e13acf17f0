"""Model directories looked at without loading them, and the command that shows what is there."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from mesh.plugins import Url
from services.generator.files import Problem, describe, safetensors_names, verify
from services.retriever import files as prepared_models
from weft_cli.main import app

Damage = Callable[[Path], object]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A directory as Hugging Face lays it out, in two shards, with checksums."""
    save_file = pytest.importorskip("safetensors.numpy").save_file
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
    (folder / "tokenizer.json").write_text("{}")
    save_file({"a": np.ones((2, 3), np.float32), "b": np.zeros(4, np.float16)}, folder / "model-1.safetensors")
    save_file({"c": np.zeros((0, 3), np.int64), "d": np.ones(3, np.bool_)}, folder / "model-2.safetensors")
    places = {"a": "model-1.safetensors", "b": "model-1.safetensors", "d": "model-2.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    sums = [
        f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}"
        for name in ("model-1.safetensors", "model-2.safetensors")
    ]
    (folder / "SHA256SUMS").write_text("\n".join(sums) + "\n")
    return folder


def test_a_whole_directory_is_ready(model: Path) -> None:
    found = describe("m", Url.parse(f"vllm://{model}?dtype=float32"), deep=True)
    assert (found["state"], found["problem"]) == ("ready", "")
    assert found["size_bytes"] == sum(path.stat().st_size for path in model.iterdir())
    assert safetensors_names(model / "model-2.safetensors") == {"c", "d"}


def test_a_directory_that_is_not_there_is_absent(tmp_path: Path) -> None:
    found = describe("m", Url.parse(f"vllm://{tmp_path}/none"), deep=True)
    assert (found["state"], found["size_bytes"]) == ("absent", 0)


def rewrite(name: str, change: Callable[[bytes], bytes]) -> Damage:
    return lambda folder: (folder / name).write_bytes(change((folder / name).read_bytes()))


def header(change: Callable[[dict[str, Any]], object]) -> Damage:
    """Change the first shard's header and leave its data."""

    def changed(data: bytes) -> bytes:
        length = int.from_bytes(data[:8], "little")
        found = json.loads(data[8 : 8 + length])
        change(found)
        new = json.dumps(found).encode()
        return len(new).to_bytes(8, "little") + new + data[8 + length :]

    return rewrite("model-1.safetensors", changed)


DAMAGE: dict[str, tuple[Damage, str]] = {
    "no config": (lambda f: (f / "config.json").unlink(), "config.json is missing"),
    "config cut": (rewrite("config.json", lambda d: d[:-1]), "config.json is no JSON object"),
    "config a list": (rewrite("config.json", lambda d: b"[]"), "config.json is no JSON object"),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), "no tokenizer"),
    "no weights": (lambda f: [p.unlink() for p in f.glob("*.safetensors")], "no weights"),
    "a shard missing": (lambda f: (f / "model-2.safetensors").unlink(), "model-2.safetensors is missing"),
    "weights cut": (
        rewrite("model-1.safetensors", lambda d: d[:-1]),
        "model-1.safetensors has .* cut short or changed",
    ),
    "weights longer": (rewrite("model-1.safetensors", lambda d: d + b"\0"), "cut short or changed"),
    "weights empty": (rewrite("model-1.safetensors", lambda d: b""), "no safetensors file"),
    "no header": (rewrite("model-1.safetensors", lambda d: (5).to_bytes(8, "little") + b"....."), "no readable header"),
    "a header of bytes": (rewrite("model-1.safetensors", lambda d: b"\xff" * 200), "no safetensors file"),
    "another shape": (header(lambda h: h["a"].update(shape=[2, 4])), "describes no tensors"),
    "another type": (header(lambda h: h["a"].update(dtype="X")), "describes no tensors"),
    "overlapping": (header(lambda h: h["b"].update(h["a"])), "overlap or leave a hole"),
    "a tensor missing": (header(lambda h: h.update(z=h.pop("a"))), "has no tensor 'a'"),
    "a bit turned": (rewrite("model-1.safetensors", lambda d: d[:-1] + b"\1"), "has SHA-256"),
    "sums of what is gone": (rewrite("SHA256SUMS", lambda d: d + b"0" * 64 + b"  x.bin\n"), "x.bin is missing"),
    "sums elsewhere": (rewrite("SHA256SUMS", lambda d: b"0" * 64 + b"  ../../etc/passwd\n"), "line 1: is not"),
    "sums of nothing": (rewrite("SHA256SUMS", lambda d: b"hello\n"), "line 1: is not"),
    "an index of nothing": (rewrite("model.safetensors.index.json", lambda d: b"{}"), "has no weight_map"),
}


@pytest.mark.parametrize(("damage", "problem"), DAMAGE.values(), ids=DAMAGE.keys())
def test_damage_is_found_and_named(model: Path, damage: Damage, problem: str) -> None:
    damage(model)
    with pytest.raises(Problem, match=problem):
        verify(model)
    assert describe("m", Url.parse(f"vllm://{model}"), deep=True)["state"] == "damaged"
    assert describe("m", Url.parse(f"vllm://{model}"), deep=False)["state"] == "ready"  # a list reads no file


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=200))
def test_a_file_of_any_bytes_is_a_problem_and_nothing_worse(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.safetensors"
        path.write_bytes(len(data).to_bytes(8, "little") + data + b"behind")
        with pytest.raises(Problem):
            safetensors_names(path)


# -- prepared models ------------------------------------------------------------------------------------------


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache with a model in it that is as whole as its checksums say."""
    pytest.importorskip("platformdirs")
    from services.retriever.minilm import store

    monkeypatch.setenv("WEFT_RETRIEVER__MODEL_CACHE", str(tmp_path))
    folder = store.location(tmp_path)
    folder.mkdir(parents=True)
    sums = {}
    for name in (store.ONNX, store.TOKENIZER):
        (folder / name).write_text(name)
        sums[name] = hashlib.sha256(name.encode()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(sums))
    return folder


def looked(what: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, list[dict[str, Any]]]:
    code = prepared_models.main([what])
    return code, json.loads(capsys.readouterr().out)


def test_a_whole_prepared_model_is_ready_and_an_earlier_releases_is_named(
    cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (cache.parent / "minilm-old-0").mkdir()
    code, (whole, old) = looked("verify", capsys)
    assert (code, whole["state"], whole["path"]) == (0, "ready", str(cache))
    assert (old["model"], old["state"]) == ("minilm-old-0", "unused")


def test_a_damaged_prepared_model_is_found_by_verify_alone(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (cache / "model.onnx").write_text("something else")
    code, (damaged,) = looked("verify", capsys)
    assert (code, damaged["state"]) == (1, "damaged")
    assert "`weft models pull` makes it anew" in damaged["problem"]
    assert looked("list", capsys)[0] == 0


def test_what_is_absent_is_a_failure_only_where_it_is_needed(
    cache: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(cache)
    code, (absent,) = looked("verify", capsys)
    assert (code, absent["state"], absent["size_bytes"]) == (1, "absent", 0)
    monkeypatch.setenv("WEFT_RETRIEVER__EMBEDDER", "none:")
    code, (absent,) = looked("verify", capsys)
    assert (code, absent["problem"]) == (0, "not needed for none:")


# -- the command ------------------------------------------------------------------------------------------------


def test_a_list_needs_no_mesh_and_says_that_there_is_none(cache: Path) -> None:
    done = CliRunner().invoke(app, ["models", "list", "--mesh", "127.0.0.1:9"])
    assert done.exit_code == 0, done.output
    assert "no mesh answers at 127.0.0.1:9" in done.output
    assert "all-MiniLM-L6-v2" in done.output


def test_what_is_there_is_not_fetched_again(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEFT_RETRIEVER__MODEL_SOURCES", str(cache.parent / "nowhere"))
    assert CliRunner().invoke(app, ["models", "pull"]).exit_code == 0
    shutil.rmtree(cache)
    assert CliRunner().invoke(app, ["models", "pull"]).exit_code == 1


def test_a_wrong_configuration_ends_the_command_with_2(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEFT_RETRIEVER__EMBEDDER", "nope:")
    done = CliRunner().invoke(app, ["models", "verify"])
    assert done.exit_code == 2
    assert "Traceback" not in done.output
