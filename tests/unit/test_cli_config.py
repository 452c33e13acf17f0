"""What `weft config check` says when several processes find fault with one environment."""

from __future__ import annotations

import pytest

from mesh.settings import ServiceSettings, load
from services.retriever.settings import Settings as RetrieverSettings
from weft.errors import WeftError
from weft_cli.commands.config import merge
from weft_cli.topology import MODULES

HEAD = "the configuration is invalid:\n"


def test_one_misspelt_name_is_told_once_with_the_nearest_suggestion(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEFT_RETREIVER__INDEX", "faiss:")
    said = {}
    for name in MODULES:
        with pytest.raises(WeftError) as refusal:
            load(RetrieverSettings if name == "retriever" else ServiceSettings)
        said[name] = f"weft {name}: {refusal.value.message}"
    assert len(set(said.values())) > 2  # they do contradict each other
    assert merge(said) == [
        "the configuration is invalid:",
        "  WEFT_RETREIVER__INDEX is not a setting; did you mean WEFT_RETRIEVER__INDEX?",
    ]


def test_a_problem_of_some_says_whose_it_is() -> None:
    port = f"{HEAD}  WEFT_PORT: no integer (is 'x')"
    said = {
        "tools": f"weft tools: {port}\n  WEFT_TOOLS__X is not a setting; did you mean Y?",
        "retriever": f"weft retriever: {port}",
    }
    assert merge(said) == [
        "the configuration is invalid:",
        "  WEFT_PORT: no integer (is 'x') (tools, retriever)",
        "  WEFT_TOOLS__X is not a setting; did you mean Y? (tools)",
    ]


def test_what_is_no_list_of_problems_is_passed_on() -> None:
    assert merge({"tools": "services.tools config did not answer within 60 s"})[1:] == [
        "  services.tools config did not answer within 60 s (tools)"
    ]
