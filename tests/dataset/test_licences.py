"""The table of licences, and how people write their names."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.config.schema import Config
from pipeline.dataset.licences import BY_KEY, DATA, FREE, from_front_matter, known_data, named
from pipeline.dataset.stage import key
from pipeline.run.folder import Run
from pipeline.stage_keys import export_key


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("cc-by-nc-4.0", "cc-by-nc-4.0"), ("CC BY-NC 4.0", "cc-by-nc-4.0"), ("Apache License 2.0", "apache-2.0"),
        ("Apache-2.0", "apache-2.0"), ("Llama 3.2 Community License", "llama3.2"), ("MIT", "mit"),
        ("hyperclovax-seed", "hyperclovax-seed"),
    ],
)  # fmt: skip
def test_a_licence_is_found_by_identifier_and_by_name(text: str, key: str) -> None:
    assert named(text) is BY_KEY[key]


@pytest.mark.parametrize("text", ["", "my own", "cc-by-nc", "llama"])
def test_another_text_is_no_licence_of_the_table(text: str) -> None:
    assert named(text) is None


def test_every_entry_is_whole() -> None:
    assert all(known.licence in BY_KEY or (known.licence == "" and known.note) for known in DATA.values())
    assert set(FREE) <= set(BY_KEY)
    assert all(one.slug for one in BY_KEY.values() if one.id == "other")
    assert BY_KEY["cc-by-nc-4.0"].commercial is False
    assert BY_KEY["cc-by-4.0"].commercial is True
    assert all(one.notice for one in BY_KEY.values() if one.id.startswith("llama"))


def test_data_is_known_by_hub_id_and_by_the_name_of_its_file() -> None:
    assert known_data("data/alpaca_data.json.gz") is DATA["alpaca_data"]
    assert known_data("/home/me/seed_tasks.ko.jsonl") is DATA["seed_tasks.ko"]
    assert known_data("tatsu-lab/alpaca") is DATA["tatsu-lab/alpaca"]
    assert known_data("me/alpaca") is None


def test_the_licence_of_a_card() -> None:
    other = {"license": "other", "license_name": "exaone", "license_link": "LICENSE"}
    assert from_front_matter(other) == (BY_KEY["exaone"], "exaone")
    assert from_front_matter({"license": "openrail"}) == (None, "openrail")
    assert from_front_matter({"license": ["mit"]}) == (BY_KEY["mit"], "mit")
    for nothing in (None, [], {"license": None}, {"license": {"a": 1}}, {"license": [[["x"]]]}):
        assert from_front_matter(nothing) == (None, "")


def test_a_licence_in_the_config_makes_no_data_stale(tmp_path: Path) -> None:
    plain, stated = (Config(name="x", data={"sources": [{"path": "families", "rows": 9, "licence": text}]})
                     for text in ("", "mit"))  # fmt: skip
    assert key(plain, Run(tmp_path)) == key(stated, Run(tmp_path))
    assert "licence" not in str(key(stated, Run(tmp_path)))
    assert export_key(plain, Run(tmp_path)) != export_key(stated, Run(tmp_path))  # the card shows it
