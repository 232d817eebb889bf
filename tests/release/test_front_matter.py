"""The metadata of a card, read back by the hub's own library, and the check that needs no network."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard, ModelCardData

from pipeline.config.schema import Config, Model
from pipeline.dataset.licences import BY_KEY, FREE
from pipeline.release.front_matter import HUB_LICENCES, front_matter_of, licence_keys, model_index, problems
from pipeline.release.terms import Party
from pipeline.run.folder import Run

RESULTS = {"tuned": {
    "val": {"rows": 4, "loss": 1.25, "exact": 0.5}, "holdout": {"rows": 2, "loss": math.nan},
    "general": {"loss": 2.0, "perplexity": 7.389, "tokens": 10},
}}  # fmt: skip


def party(role: str, key: str, **values: Any) -> Party:
    return Party(role, "x", BY_KEY[key], BY_KEY[key].name, **values)


@pytest.fixture
def front(tmp_path: Path) -> dict[str, Any]:
    """Of a tuned hub model on hub data, in two languages."""
    config = Config(name="mine", model=Model(base="org/base"), data={"sources": [{"path": "org/data"}]})
    report = {"languages": {"ko": 90, "en": 9, "zxx": 50, "fr": 1}}
    (tmp_path / "dataset").mkdir()
    (tmp_path / "dataset" / "report.json").write_text(json.dumps(report))
    found = [party("base", "apache-2.0"), party("data", "mit")]
    return front_matter_of(config, Run(tmp_path), found, RESULTS)


def test_the_hubs_library_reads_it_back(front: dict[str, Any]) -> None:
    text = f"---\n{yaml.safe_dump(front, sort_keys=False)}---\n# mine\n"
    data = ModelCard(text).data
    assert isinstance(data, ModelCardData)
    assert (data.license, data.library_name, data.pipeline_tag) == ("apache-2.0", "transformers", "text-generation")
    assert data.language == ["ko", "en"]  # one row in 150 is no language of the data
    assert (data.base_model, data["base_model_relation"], data.datasets) == ("org/base", "finetune", ["org/data"])
    assert data.eval_results is not None
    values = [(r.dataset_type, r.dataset_split, r.metric_type, r.metric_value) for r in data.eval_results]
    assert values == [
        ("org/data", "val", "loss", 1.25), ("org/data", "val", "exact_match", 0.5), ("general", None, "loss", 2.0),
        ("general", None, "perplexity", 7.389),
    ]  # fmt: skip
    assert problems(yaml.safe_load(yaml.safe_dump(data.to_dict()))) == []
    assert problems(front) == []


def test_every_licence_of_the_table_is_one_of_the_hub() -> None:
    assert {licence.id for licence in BY_KEY.values()} | set(FREE) <= HUB_LICENCES


@pytest.mark.parametrize(
    ("found", "keys"),
    [
        ([party("base", "llama3.2"), party("data", "apache-2.0")], {"license": "llama3.2"}),
        ([party("base", "apache-2.0"), party("data", "cc-by-nc-4.0")], {
            "license": "other", "license_name": "several", "license_link": "LICENSE.md"}),
        ([party("base", "apache-2.0"), party("data", "mit", provider="OpenAI")], {
            "license": "other", "license_name": "several", "license_link": "LICENSE.md"}),
        ([party("base", "exaone")], {
            "license": "other", "license_name": "exaone", "license_link": BY_KEY["exaone"].link}),
        ([Party("base", "x", None, "OpenRAIL")], {"license": "openrail"}),
        ([Party("base", "x", None, "House Rules!")], {
            "license": "other", "license_name": "house-rules", "license_link": "LICENSE.md"}),
        ([Party("base", "x")], {}),
        ([], {}),
    ],
)  # fmt: skip
def test_licence_keys(found: list[Party], keys: dict[str, str]) -> None:
    assert licence_keys(found) == keys
    assert problems(keys) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"license": "Apache 2.0"}, "no identifier"), ({"license": "other"}, "needs license_name"),
        ({"license": "other", "license_name": "x", "license_link": "/home/me/LICENSE"}, "license_link"),
        ({"language": ["English"]}, "no code"), ({"base_model": "/models/llama"}, "no id on the hub"),
        ({"base_model_relation": "tuned"}, "base_model_relation"), ({"datasets": ["data/x y.json"]}, "datasets"),
        ({"library_name": "suri"}, "library_name"), ({"pipeline_tag": "chat"}, "pipeline_tag"),
        ({"model-index": [{"name": "x"}]}, "cannot be read"),
        ({"model-index": [{"name": "x", "results": [
            {"task": {"type": "t"}, "dataset": {"type": "d", "name": "d"},
             "metrics": [{"type": "loss", "value": math.nan}]},
        ]}]}, "no number"),
    ],
)  # fmt: skip
def test_what_a_hub_would_refuse_is_named(front: dict[str, Any], change: dict[str, Any], said: str) -> None:
    [problem] = problems({**copy.deepcopy(front), **change})
    assert said in problem


def test_no_results_give_no_index() -> None:
    assert model_index("x", [], {"val": {"loss": math.nan}}) == []
    assert problems(None) == ["there is no metadata"]
