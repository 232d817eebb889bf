"""What an export holds: weights, tokenizer, card, records."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from pipeline.config.schema import Config
from pipeline.prompt.stage import encoder_of
from pipeline.prompt.tokens import Tokens
from pipeline.release import card as cards
from pipeline.run.files import sha256_file
from pipeline.run.folder import Run
from tests.helpers.exports import logits
from tests.helpers.tiny import load_examples, make_config, run_to


def test_stock_libraries_load_it_and_agree(exported: tuple[Config, Run], base: Path) -> None:
    config, run = exported
    encoder = encoder_of(config.prompt, base, config.model.add_tokens)
    model = AutoModelForCausalLM.from_pretrained(run.folder("export"))
    plain = AutoModelForCausalLM.from_pretrained(base)
    example = load_examples(run, "val")[0]
    ids = encoder.rows([example])[0].ids
    alone = logits(plain, ids)
    adapted = PeftModel.from_pretrained(plain, run.folder("adapter"))
    assert (logits(adapted, ids) - logits(model, ids)).abs().max() < 1e-4
    assert (alone - logits(model, ids)).abs().max() > 1e-3
    assert model.generation_config.eos_token_id == model.config.eos_token_id == encoder.end_id == 2
    assert model.generation_config.pad_token_id == 0  # <unk>: the tokenizer has no token for padding
    assert model.config.use_cache
    tokenizer = AutoTokenizer.from_pretrained(run.folder("export"))
    assert tokenizer.eos_token_id == 2
    assert tokenizer.model_max_length == 512
    for example in load_examples(run, "train")[:20]:
        message = {"role": "user", "content": example.instruction, "input": example.input}
        given = tokenizer.apply_chat_template([message], add_generation_prompt=True, return_dict=False)
        assert given == encoder.prompt(example.instruction, example.input)


def test_card(exported: tuple[Config, Run]) -> None:
    _, run = exported
    text = (run.folder("export") / "README.md").read_text()
    _, front, body = text.split("---\n", 2)
    values = yaml.safe_load(front)
    index = values.pop("model-index")
    assert values == {
        "language": ["en"],
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "metrics": ["exact_match", "perplexity"],
        "tags": ["suri", "instruction-tuning", "alpaca-short"],
    }
    assert index[0]["name"] == "tiny"
    results = json.loads((run.folder("export") / "results.json").read_text())
    assert f"| {results['base']['val']['loss']:.3f} | {results['tuned']['val']['loss']:.3f} |" in body
    assert sha256_file(run.folder("dataset") / "train.jsonl") in body
    assert "84 instructions, 6 steps" in body
    recipe = yaml.safe_load(re.search(r"```yaml\n(.*?)```", body, re.DOTALL)[1])  # type: ignore[index]
    assert recipe["adapter"] == {"r": 4, "alpha": 8.0, "dropout": 0.1, "targets": ["q_proj", "v_proj"]}


def test_no_path_of_this_machine_leaves_it(exported: tuple[Config, Run], base: Path) -> None:
    _, run = exported
    for path in run.folder("export").iterdir():
        assert str(base.parent).encode() not in path.read_bytes(), path.name
    given = {"a": ["/home/me/base", "~/x/y", "org/name", 3], "b": "data/seed.jsonl"}
    assert cards.without_paths(given) == {"a": ["base", "y", "org/name", 3], "b": "data/seed.jsonl"}


def test_the_card_counts_the_rows_that_were_trained_on(
    exported: tuple[Config, Run], base: Path, tmp_path: Path
) -> None:
    """The tokens stage may reject more: those were not trained on."""
    cutoff = int(np.median(Tokens(exported[1].folder("tokens") / "train.arrow").lengths))
    config = make_config(tmp_path, base, "prompt.too_long=reject", f"prompt.cutoff={cutoff}", "data.holdout=[]")
    run = run_to(config, "tokens", tmp_path)
    counts = run.manifest("tokens")["counts"]
    rejected = sum(counts[part]["rejected"] for part in ("train", "val", "holdout"))
    assert 0 < counts["train"]["rejected"] < counts["train"]["rows"] + counts["train"]["rejected"]
    results = json.loads((exported[1].folder("export") / "results.json").read_text())
    text = cards.card(config, run, encoder_of(config.prompt, base, config.model.add_tokens), results, {})
    assert f". {counts['train']['rows']:,} instructions, " in text
    assert f"Rows: {counts['train']['rows']:,} train, {counts['val']['rows']:,} held out, " in text
    assert f", {rejected:,} of them as too long." in text


@pytest.mark.parametrize(("counts", "sentence"), [
    ({}, ""),
    ({"best_step": 400, "best_loss": 1.23456, "planned_steps": 900},
     " Training ended early, before step 900, since the held-out loss stopped falling; the weights are those of step "
     "400, with the lowest held-out loss (1.235)."),
    ({"planned_steps": 9000},
     " Training ended early, before step 9,000, since the held-out loss stopped falling."),
    ({"best_step": 400, "best_loss": 2},
     " The weights are those of step 400, with the lowest held-out loss (2.000)."),
])  # fmt: skip
def test_the_card_says_how_training_ended(
    exported: tuple[Config, Run], base: Path, monkeypatch: pytest.MonkeyPatch, counts: dict[str, Any], sentence: str
) -> None:
    config, run = exported
    manifest = run.manifest("adapter")
    changed = {**manifest, "counts": {**manifest["counts"], **counts}}
    stock = Run.manifest
    monkeypatch.setattr(Run, "manifest", lambda r, stage: changed if stage == "adapter" else stock(r, stage))
    results = json.loads((run.folder("export") / "results.json").read_text())
    text = cards.card(config, run, encoder_of(config.prompt, base, config.model.add_tokens), results, {})
    assert f"6 steps.{sentence}\n" in text


@pytest.mark.parametrize("method", ["houlsby", "prefix"])
def test_the_card_of_an_adapter_names_its_base(
    exported: tuple[Config, Run], base: Path, tmp_path: Path, method: str
) -> None:
    results = json.loads((exported[1].folder("export") / "results.json").read_text())
    for name, shown in (("org/name", "org/name"), (str(base), base.name)):
        config = make_config(tmp_path, base, f"model.base={name}", f"adapter.method={method}")
        text = cards.card(config, exported[1], encoder_of(config.prompt, base, config.model.add_tokens), results, {})
        assert f"BASE is `{shown}`, PATH this folder" in text
        assert "NAME" not in text


def test_hub_base_is_named_in_the_card(exported: tuple[Config, Run], base: Path, tmp_path: Path) -> None:
    config = make_config(tmp_path, base, "model.base=org/name")
    results = json.loads((exported[1].folder("export") / "results.json").read_text())
    text = cards.card(config, exported[1], encoder_of(config.prompt, base, config.model.add_tokens), results, {})
    assert yaml.safe_load(text.split("---\n")[1])["base_model"] == "org/name"


def test_manifest_and_hashes(exported: tuple[Config, Run], base: Path) -> None:
    config, run = exported
    folder, manifest = run.folder("export"), run.manifest("export")
    assert manifest is not None
    there = {p.name for p in folder.iterdir()} - {"manifest.json"}
    assert set(manifest["files"]) == there
    assert {"model.safetensors", "config.json", "generation_config.json", "tokenizer.json", "README.md"} <= there
    assert all(entry["sha256"] == sha256_file(folder / name) for name, entry in manifest["files"].items())
    assert 0 < manifest["counts"]["val"]["loss"] < 10
    made = json.loads((folder / "suri.json").read_text())
    encoder = encoder_of(config.prompt, base, config.model.add_tokens)
    assert made["template"] == {"id": "alpaca-short", "hash": encoder.template.hash}
    assert (made["tokenizer"], made["end_id"]) == (encoder.tokenizer.hash, 2)
    names = {"adapter not empty", "merged = base + adapter", "reload", "tokenizer and chat template", "answers stop"}
    assert made["checks"].keys() == names | {"end token"}
    assert "unfinished" not in made
    assert "unfinished" not in manifest["counts"]
