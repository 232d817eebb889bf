"""Whose terms apply to a model, and where they conflict."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.config.schema import Config, Model
from pipeline.dataset.licences import BY_KEY
from pipeline.release.licence_files import licence_files, write_licence_files
from pipeline.release.terms import Party, conflicts, is_under_base_terms, parties, section


def party(role: str, name: str, key: str, provider: str = "") -> Party:
    return Party(role, name, BY_KEY[key], BY_KEY[key].name, "", provider)


SMOL = party("base", "SmolLM2-135M", "apache-2.0")
LLAMA = party("base", "meta-llama/Llama-3.2-1B", "llama3.2")
ALPACA = party("data", "tatsu-lab/alpaca", "cc-by-nc-4.0", "OpenAI")
FAMILIES = party("data", "families", "apache-2.0")


def test_free_base_and_free_data_have_no_conflict() -> None:
    assert conflicts([SMOL, FAMILIES], "mine") == []
    assert is_under_base_terms([SMOL, FAMILIES])
    assert not is_under_base_terms([SMOL, ALPACA])
    assert not is_under_base_terms([SMOL, Party("data", "mine.jsonl")])


def test_alpaca_is_not_for_commercial_use_and_names_openai() -> None:
    commercial, openai = conflicts([SMOL, ALPACA], "mine")
    assert commercial == "**Not for commercial use**: the data `tatsu-lab/alpaca` is under CC BY-NC 4.0."
    assert "a model of OpenAI" in openai
    assert "tatsu-lab/alpaca" in openai


@pytest.mark.parametrize(("name", "refused"), [("mine", True), ("Llama-mine", False), ("llama-3.2-mine", False)])
def test_a_derived_llama_must_be_called_llama(name: str, refused: bool) -> None:
    lines = conflicts([LLAMA, FAMILIES], name)
    assert bool(lines) is refused
    assert all("must begin with 'Llama'" in line for line in lines)


def test_weights_of_the_first_llama_may_not_be_passed_on() -> None:
    lines = conflicts([party("base", "llama-7b", "llama-license"), ALPACA], "alpaca")
    assert "the base `llama-7b` is under LLaMA licence of 2023" in lines[0]
    assert "the data `tatsu-lab/alpaca`" in lines[0]
    assert any("make diff" in line for line in lines)


def test_exaone_is_not_for_commercial_use() -> None:
    assert "EXAONE" in conflicts([party("base", "LGAI-EXAONE/EXAONE-4.0-1.2B", "exaone")], "mine")[0]


def test_answers_of_a_llama_2_teacher_improve_llama_2_only() -> None:
    teacher = party("teacher", "meta-llama/Llama-2-70b-chat-hf", "llama2")
    assert any("may improve no models but Llamas" in line for line in conflicts([SMOL, teacher], "mine"))
    assert not conflicts([party("base", "meta-llama/Llama-2-7b-hf", "llama2"), teacher], "mine")


def test_answers_of_a_newer_llama_ask_for_its_name() -> None:
    teacher = party("teacher", "meta-llama/Llama-3.3-70B-Instruct", "llama3.3")
    assert "must begin with 'Llama'" in conflicts([SMOL, teacher], "mine")[0]


def test_data_under_share_alike_on_a_base_with_terms() -> None:
    dolly = party("data", "databricks/databricks-dolly-15k", "cc-by-sa-3.0")
    assert any("disputed" in line for line in conflicts([LLAMA, dolly], "Llama-x"))
    assert not any("disputed" in line for line in conflicts([SMOL, dolly], "x"))


def test_what_is_not_known_is_said() -> None:
    lines = conflicts([Party("base", "base"), Party("data", "mine.jsonl")], "x")
    assert lines == ["Suri knows no licence of the base `base` and the data `mine.jsonl`: look it up before you pass "
                     "the model on."]  # fmt: skip
    assert "not known to Suri: look at its page" in section([Party("base", "base")], "x")


def test_names_are_letters_in_markdown() -> None:
    text = section([Party("base", "a`|b", None, "<script>", "![x](http://y)")], "x")
    assert "<script>" not in text
    assert "![x](" not in text
    assert "| `a'\\|b` |" in text


def _config(base: str, *sources: dict[str, str]) -> Config:
    return Config(name="mine", model=Model(base=base), data={"sources": sources})


def test_parties_of_a_config(tmp_path: Path) -> None:
    card = tmp_path / "own" / "README.md"
    card.parent.mkdir()
    card.write_text("---\nlicense: cc-by-4.0\n---\n")
    rows = card.parent / "rows.jsonl"
    rows.write_text('{"instruction": "a", "output": "b"}\n')
    made = tmp_path / "generated"
    made.mkdir()
    (made / "rows.jsonl").write_text('{"instruction": "a", "output": "b"}\n')
    models = [
        {"role": "teacher", "model": "gpt-4o-mini", "terms": "our contract"},
        {"role": "judge", "model": "gpt-4o"},
    ]
    (made / "report.json").write_text(json.dumps({"provenance": {"models": models}}))
    config = _config(
        "org/unknown", {"path": str(rows)}, {"path": "tatsu-lab/alpaca"}, {"path": str(made)},
        {"path": "org/data", "licence": "CC BY 4.0"}, {"path": "org/other", "licence": "house rules"},
    )  # fmt: skip
    found = {p.name: p for p in parties(config, None)}
    assert found["org/unknown"].text == ""
    assert (found["rows.jsonl"].text, found["rows.jsonl"].note) == ("CC BY 4.0", "by the card beside it")
    assert found["tatsu-lab/alpaca"].provider == "OpenAI"
    assert found["gpt-4o-mini"].role == "teacher"
    assert found["gpt-4o-mini"].provider == "OpenAI"
    assert "our contract" in found["gpt-4o-mini"].note
    assert "gpt-4o" not in found  # a judge writes no rows
    assert found["org/data"].licence is BY_KEY["cc-by-4.0"]
    assert (found["org/other"].licence, found["org/other"].text) == (None, "house rules")
    assert str(tmp_path) not in section(list(found.values()), "mine")


def test_texts_of_the_base_travel_along(tmp_path: Path) -> None:
    base, export = tmp_path / "base", tmp_path / "export"
    base.mkdir()
    export.mkdir()
    (base / "LICENSE").write_text("the licence")
    (base / "USE_POLICY.md").write_text("the policy")
    (base / "LICENSE.md").write_text("more")
    write_licence_files(base, [LLAMA, ALPACA], "Llama-mine", export)
    names = ["LICENSE", "LICENSE.base.md", "LICENSE.md", "NOTICE", "USE_POLICY.md"]
    assert sorted(path.name for path in export.iterdir()) == names == licence_files(export)
    assert (export / "LICENSE").read_text() == "the licence"
    assert (export / "NOTICE").read_text().startswith("Llama 3.2 is licensed under the Llama 3.2 Community License, ")
    assert "CC BY-NC 4.0" in (export / "LICENSE.md").read_text()


def test_a_notice_of_the_base_is_kept_and_free_models_get_no_files(tmp_path: Path) -> None:
    base, export, free = tmp_path / "base", tmp_path / "export", tmp_path / "free"
    for folder in (base, export, free):
        folder.mkdir()
    (base / "Notice").write_text("of the base")
    write_licence_files(base, [LLAMA, FAMILIES], "Llama-mine", export)
    assert [path.name for path in export.iterdir()] == ["Notice"]
    write_licence_files(None, [SMOL, FAMILIES], "mine", free)
    assert list(free.iterdir()) == []
