"""Settings of admission: what is read, refused, and put in front of which model."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry

from mesh.plugins import Url
from mesh.settings import load
from services.generator.admission.admission import Admission
from services.generator.admission.admitted import Admitted
from services.generator.models import scripted
from services.generator.settings import GeneratorOptions, Settings
from weft.errors import WeftError

MODELS = '{"extractive": "extractive:", "said": "scripted:"}'


def read(monkeypatch: pytest.MonkeyPatch, **environ: str) -> GeneratorOptions:
    for name, value in environ.items():
        monkeypatch.setenv(f"WEFT_GENERATOR__{name}", value)
    monkeypatch.setenv("WEFT_GENERATOR__MODELS", MODELS)
    return load(Settings).generator


def around(options: GeneratorOptions, name: str) -> object:
    admission = Admission(options, options.models, options.prices, CollectorRegistry())
    return admission.around(name, scripted.open(Url.parse("scripted:")))


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("max_running", "32", {"*": 32}),
        ("max_running", '{"said": 3}', {"said": 3}),
        ("tokens_per_minute", "60000", {"*": 60_000}),
        (
            "tokens_per_minute",
            '{"*": 9, "acme": null, "*/said": 3}',
            {"*": 9, "acme": None, "*/said": 3},
        ),
        ("budgets", '{"acme": {"tokens_per_day": 1e6}}', {"acme": {"tokens_per_day": 1_000_000}}),
    ],
)
def test_a_number_is_for_all_and_an_object_for_some(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, expected: object
) -> None:
    assert getattr(read(monkeypatch, **{name.upper(): value}), name) == expected


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("MAX_RUNNING", "many", "is no JSON .* an example is"),
        ("MAX_RUNNING", "-1", "allowed is 0 to 100000"),
        ("MAX_RUNNING", '{"llama": 3}', "no model 'llama'; there are: extractive, said"),
        ("MAX_WAITING", "-1", "greater than or equal to 0"),
        ("LIMITS", "floppy://a", "there are: memory, redis"),
        ("TOKENS_PER_MINUTE", "0", "allowed is 1 to"),
        ("TOKENS_PER_MINUTE", '{"acme/*": 5}', "neither TENANT nor TENANT/MODEL"),
        ("TOKENS_PER_MINUTE", '{"acme/llama": 5}', "no model 'llama'"),
        ("BUDGETS", '{"acme": {"tokens_per_week": 5}}', "no budget; there are: tokens_per_day"),
        ("BUDGETS", '{"acme": {"tokens_per_day": 0}}', "allowed is above 0"),
        ("BUDGETS", '{"acme/llama": {"tokens_per_day": 5}}', "is no TENANT"),
        ("BUDGETS", '{"acme": {"money_per_day": 5}}', "WEFT_GENERATOR__PRICES"),
    ],
)
def test_what_is_wrong_is_refused_with_what_is_allowed(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str
) -> None:
    with pytest.raises(WeftError, match=message):
        read(monkeypatch, **{name: value})


def test_nothing_stands_in_front_of_a_model_where_nothing_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    options = read(monkeypatch)
    assert not isinstance(around(options, "extractive"), Admitted)


@pytest.mark.parametrize(
    ("setting", "value"), [("MAX_RUNNING", '{"said": 1}'), ("TOKENS_PER_MINUTE", "9"), ("MAX_RUNNING", "2")]
)
def test_a_bound_of_any_kind_puts_a_gate_in_front(monkeypatch: pytest.MonkeyPatch, setting: str, value: str) -> None:
    assert isinstance(around(read(monkeypatch, **{setting: value}), "said"), Admitted)
