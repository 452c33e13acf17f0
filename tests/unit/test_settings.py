"""Settings are read strictly: a typo stops the process instead of running as a default."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import BaseModel

from mesh.settings import ServiceSettings, load, masked
from services.generator.settings import Settings as GeneratorSettings
from weft.errors import WeftError


class Options(BaseModel):
    index: str = "faiss:"
    limit: int = 3


class Settings(ServiceSettings):
    retriever: Options = Options()


def read(monkeypatch: pytest.MonkeyPatch, **values: str) -> Settings:
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    return load(Settings)


def test_defaults_listen_on_loopback_only(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = read(monkeypatch)
    assert settings.listen == ("127.0.0.1", 0)
    assert settings.mesh == ("127.0.0.1:9500",)


def test_a_services_own_values_come_from_its_group(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = read(monkeypatch, WEFT_RETRIEVER__INDEX="milvus://h", WEFT_MESH="a:1, b:2", WEFT_LOAD__CPU="0.5")
    assert settings.retriever.index == "milvus://h"
    assert settings.mesh == ("a:1", "b:2")
    assert settings.load.cpu == 0.5


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("WEFT_MSEH", "WEFT_MESH"),
        ("WEFT_RETRIEVER__INDEKS", "WEFT_RETRIEVER__INDEX"),
        ("WEFT_LOAD__CPUS", "WEFT_LOAD__CPU"),
    ],
)
def test_a_misspelt_name_is_refused_with_the_nearest_one(monkeypatch: pytest.MonkeyPatch, name: str, hint: str) -> None:
    with pytest.raises(WeftError, match=rf"{name} is not a setting; did you mean {hint}\?"):
        read(monkeypatch, **{name: "1"})


def test_other_services_groups_are_let_through(monkeypatch: pytest.MonkeyPatch) -> None:
    read(monkeypatch, WEFT_GENERATOR__MODELS="{}", WEFT_TEST_CONSUL="/x")


def test_every_wrong_value_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(WeftError) as caught:
        read(monkeypatch, WEFT_PORT="70000", WEFT_RETRIEVER__LIMIT="many", WEFT_MESH="nowhere")
    message = str(caught.value)
    assert "WEFT_PORT" in message
    assert "70000" in message
    assert "WEFT_RETRIEVER__LIMIT" in message
    assert "WEFT_MESH" in message


def test_a_name_is_no_address_that_others_dial(monkeypatch: pytest.MonkeyPatch) -> None:
    assert read(monkeypatch, WEFT_ADVERTISE="10.1.2.3").advertise == "10.1.2.3"
    with pytest.raises(WeftError) as caught:
        read(monkeypatch, WEFT_ADVERTISE="localhost")
    assert "WEFT_ADVERTISE: Value error, not an IP address" in str(caught.value)
    assert "'localhost'" in str(caught.value)


def test_secrets_are_masked_in_what_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(WeftError) as caught:
        read(monkeypatch, WEFT_PORT="x://u:s3cret@h")
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "hidden"), [("WEFT_GENERATOR__API_KEYS", True), ("WEFT_GENERATOR__MAX_WAITING_TOKENS", False)]
)
def test_a_value_is_hidden_by_the_name_of_a_secret_alone(
    monkeypatch: pytest.MonkeyPatch, name: str, hidden: bool
) -> None:
    monkeypatch.setenv(name, "s3cret")
    with pytest.raises(WeftError) as caught:
        load(GeneratorSettings)
    assert ("s3cret" in str(caught.value)) is not hidden


def test_secrets_are_masked_in_print(monkeypatch: pytest.MonkeyPatch) -> None:
    store = "postgresql://u:s3cret@h/db?sslpassword=s3cret&apikey=s3cret&first_token_timeout_s=5"
    settings = read(monkeypatch, WEFT_REGISTRY="consul://h:8500?token=s3cret", WEFT_STORE=store)
    shown = json.dumps(masked(settings))
    assert "s3cret" not in shown
    assert "first_token_timeout_s=5" in shown


@pytest.mark.parametrize(
    ("store", "expected"), [("sqlite:///data", Path("data")), ("sqlite:////var/weft", Path("/var/weft"))]
)
def test_the_store_names_a_directory(monkeypatch: pytest.MonkeyPatch, store: str, expected: Path) -> None:
    assert read(monkeypatch, WEFT_STORE=store).local_dir == expected


@pytest.mark.parametrize("store", ["sqlite://h/x", "sqlite:", "nonsense"])
def test_a_store_that_names_no_directory_is_refused(monkeypatch: pytest.MonkeyPatch, store: str) -> None:
    with pytest.raises(WeftError):
        _ = read(monkeypatch, WEFT_STORE=store).local_dir


def test_beside_a_server_s_store_a_machine_keeps_its_own_in_a_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    store = "postgresql://u:p@h/db"
    assert read(monkeypatch, WEFT_STORE=store).local_dir == Path(".weft")
    assert read(monkeypatch, WEFT_STORE=store, WEFT_DATA_DIR="/var/weft").local_dir == Path("/var/weft")
