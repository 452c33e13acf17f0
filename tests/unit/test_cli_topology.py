"""What `weft up` starts, and with which environment."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer

from weft_cli import topology
from weft_cli.topology import Replicas, infrastructure, parse_replicas, services, shared_environ


def test_without_a_word_there_are_two_retrievers_and_one_of_each_other_service() -> None:
    assert [(r.service, r.count) for r in parse_replicas(None)] == [
        ("retriever", 2),
        ("generator", 1),
        ("tools", 1),
        ("orchestrator", 1),
    ]


def test_a_number_replaces_the_default_and_a_version_comes_on_top() -> None:
    found = parse_replicas("tools=0, generator=3, retriever@v2=1")
    assert Replicas("tools", "", 0) in found
    assert Replicas("generator", "", 3) in found
    assert Replicas("retriever", "", 2) in found
    assert Replicas("retriever", "v2", 1) in found


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("retreiver=2", "no service"),
        ("controlplane=2", "no service"),
        ("retriever", "NAME=VALUE"),
        ("retriever=", "NAME=VALUE"),
        ("retriever=two", "0 to 32"),
        ("retriever=-1", "0 to 32"),
        ("retriever=33", "0 to 32"),
        ("", "empty"),
    ],
)
def test_replicas_that_cannot_be_are_refused_by_name(text: str, problem: str) -> None:
    with pytest.raises(typer.BadParameter, match=problem):
        parse_replicas(text)


def test_every_instance_has_its_own_name_and_id_and_its_version() -> None:
    specs = services(parse_replicas("retriever=2,retriever@v2=1,generator=0,tools=0,orchestrator=0"))
    assert [spec.name for spec in specs] == ["retriever-1", "retriever-2", "retriever@v2-1"]
    assert len({spec.instance_id for spec in specs}) == 3
    assert all(spec.environ["WEFT_INSTANCE_ID"] == spec.instance_id for spec in specs)
    assert [spec.environ.get("WEFT_VERSION") for spec in specs] == [None, None, "v2"]
    again = services(parse_replicas("retriever=2,retriever@v2=1"))
    assert not {spec.instance_id for spec in specs} & {spec.instance_id for spec in again}


def test_the_collector_stays_at_home_where_traces_go_elsewhere() -> None:
    assert [spec.name for spec in infrastructure("127.0.0.1:9500", 9501)] == ["controlplane", "collector"]
    assert [spec.name for spec in infrastructure("127.0.0.1:9500", None)] == ["controlplane"]


def test_what_the_operator_has_set_stays_and_what_the_mesh_needs_is_added(tmp_path: Path) -> None:
    given = {
        "WEFT_STORE": "sqlite:////elsewhere",
        "WEFT_RETRIEVER__EMBEDDER": "none:",
        "WEFT_PORT": "1",
        "WEFT_LOG_FORMAT": "json",
    }
    found = shared_environ(given, mesh="127.0.0.1:7", registry="consul://h:8500", data_dir=tmp_path, collector_port=8)
    assert found["WEFT_STORE"] == "sqlite:////elsewhere"
    assert found["WEFT_RETRIEVER__EMBEDDER"] == "none:"
    assert found["WEFT_MESH"] == "127.0.0.1:7"
    assert found["WEFT_REGISTRY"] == "consul://h:8500"
    assert found["OTEL_EXPORTER_OTLP_ENDPOINT"] == "http://127.0.0.1:8"
    assert found["WEFT_LOG_FORMAT"] == "json"
    plain = shared_environ({}, mesh="127.0.0.1:7", registry=None, data_dir=tmp_path, collector_port=None)
    assert plain["WEFT_STORE"] == f"sqlite:///{tmp_path}"
    assert not plain.keys() & {"WEFT_REGISTRY", "OTEL_EXPORTER_OTLP_ENDPOINT"}
    assert plain["WEFT_LOG_FORMAT"] == "console"  # in a pipe, too


def test_with_a_server_s_store_the_machine_keeps_the_rest_in_the_data_directory(tmp_path: Path) -> None:
    given = {"WEFT_STORE": "postgresql://u:p@h/db"}
    found = shared_environ(given, mesh="127.0.0.1:7", registry=None, data_dir=tmp_path, collector_port=None)
    assert found["WEFT_STORE"] == given["WEFT_STORE"]
    assert found["WEFT_DATA_DIR"] == str(tmp_path)
    assert found["WEFT_ORCHESTRATOR__SESSIONS"] == f"sqlite:///{tmp_path}"


def test_all_that_is_started_is_also_drained() -> None:
    drained = [service for stage in topology.DRAIN_ORDER for service in stage]
    assert sorted(drained) == sorted(topology.MODULES)
