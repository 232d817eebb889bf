"""Exports in several formats: what is written, checked, recorded, and when it is made again."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from peft import PeftModel
from transformers import AutoModelForCausalLM

from pipeline import stages
from pipeline.config.load import load
from pipeline.config.schema import Config
from pipeline.prompt.stage import encoder_of
from pipeline.release import formats
from pipeline.release.gguf import checks as gguf_checks
from pipeline.release.gguf.reader import read_keys
from pipeline.run.errors import UserError
from pipeline.run.files import sha256_file
from pipeline.run.folder import Run
from tests.helpers.exports import again, assert_refused, logits
from tests.helpers.go_template import parse_modelfile, prompt_of
from tests.helpers.tiny import load_examples, make_config, run_to

ALL = "export.formats=[hf,adapter,gguf]"


@pytest.fixture(scope="module")
def in_all(base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, Run]:
    folder = tmp_path_factory.mktemp("formats")
    config = make_config(folder, base, ALL, "eval.tasks=[]")
    return config, run_to(config, "export", folder)


def test_what_is_there(in_all: tuple[Config, Run], base: Path) -> None:
    _, run = in_all
    folder = run.folder("export")
    record = json.loads((folder / "suri.json").read_text())
    assert set(record["formats"]) == {"adapter", "gguf"}
    for part in record["formats"].values():
        assert sha256_file(folder / part["file"]) == part["sha256"]
        assert part["sha256"] in (folder / "README.md").read_text()
    gguf = record["formats"]["gguf"]
    assert gguf["file"] == "gguf/tiny-f16.gguf"
    assert abs(gguf["nll"]["gguf"] - gguf["nll"]["checkpoint"]) < 1e-3
    assert re.search("4 of 4 greedy answers are equal", record["checks"]["GGUF"])
    prompts = re.search(r"\((\d+) prompts", record["checks"]["GGUF tokenizer"])
    assert prompts
    assert int(prompts[1]) == 92  # all rows of train and val: fewer than 200
    for path in folder.rglob("*"):
        assert path.is_dir() or str(base.parent).encode() not in path.read_bytes(), path.name
    files = run.manifest("export")["files"]  # type: ignore[index]
    assert {"gguf/Modelfile", "gguf/tiny-f16.gguf", "adapter/adapter_config.json"} <= set(files)


def test_the_adapter_loads_in_stock_peft(in_all: tuple[Config, Run], base: Path) -> None:
    _, run = in_all
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), run.folder("export") / "adapter")
    merged = AutoModelForCausalLM.from_pretrained(run.folder("export"))
    assert (logits(model, [1, 5, 7, 9]) - logits(merged, [1, 5, 7, 9])).abs().max() < 1e-4
    settings = json.loads((run.folder("export") / "adapter" / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == base.name
    assert "PeftModel.from_pretrained" in (run.folder("export") / "adapter" / "README.md").read_text()


def test_template_and_end_in_the_file_and_in_the_modelfile(in_all: tuple[Config, Run], base: Path) -> None:
    config, run = in_all
    encoder = encoder_of(config.prompt, base, ())
    folder = run.folder("export") / "gguf"
    keys = read_keys(folder / "tiny-f16.gguf")
    assert keys["general.architecture"] == "llama"
    assert keys["general.name"] == "tiny"
    assert keys["tokenizer.ggml.eos_token_id"] == encoder.end_id
    assert keys["tokenizer.chat_template"] == encoder.template.jinja("", "</s>")
    commands = dict(parse_modelfile((folder / "Modelfile").read_text()))
    assert commands["model"] == "./tiny-f16.gguf"
    assert commands["stop"] == "</s>"
    for example in load_examples(run, "train")[:20]:
        values = {"Prompt": example.instruction, "System": example.input}
        assert prompt_of(commands["template"], values) == encoder.template.prompt(example.instruction, example.input)


def test_evaluation_takes_the_measurements_of_the_export(in_all: tuple[Config, Run]) -> None:
    """The adapter's and the GGUF file's weights are no part of the measured model."""
    config, run = in_all
    before = (run.folder("measurements") / "tuned.jsonl").read_bytes()
    stages.bring_up_to_date(config, run, "eval")
    assert (run.folder("measurements") / "tuned.jsonl").read_bytes() == before


def test_a_run_of_before_stays_up_to_date(exported: tuple[Config, Run]) -> None:
    config, run = exported
    key = run.manifest("export")["key"]  # type: ignore[index]
    assert set(key["export"]) == {"dtype", "min_eos"}  # as keys were before there were formats
    quantized = config.model_copy(update={"export": config.export.model_copy(update={"gguf": "q8_0"})})
    assert stages.stale(quantized, run) == []  # it is not written
    more = config.model_copy(update={"export": config.export.model_copy(update={"formats": ("hf", "gguf")})})
    assert stages.stale(more, run) == ["export"]


@pytest.mark.parametrize(("kind", "limit"), [("bf16", 0.01), ("q8_0", 0.02)])
def test_other_types(in_all: tuple[Config, Run], kind: str, limit: float, tmp_path: Path) -> None:
    config, run = in_all
    changed = config.model_copy(update={"export": config.export.model_copy(update={"gguf": kind})})
    stages.bring_up_to_date(changed, run, "export")
    record = json.loads((run.folder("export") / "suri.json").read_text())["formats"]["gguf"]
    assert record["file"] == f"gguf/tiny-{kind}.gguf"
    assert abs(record["nll"]["gguf"] - record["nll"]["checkpoint"]) < limit


def test_a_file_that_computes_something_else_is_refused(
    in_all: tuple[Config, Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, run = in_all
    monkeypatch.setattr(formats.Weights, "_permuted", lambda self, name, tensor: tensor)  # as qwen2 has it
    monkeypatch.setitem(gguf_checks.TOLERANCE, "f16", 1e-5)  # two layers of random weights differ little
    assert "-log p a token" in assert_refused(config, run, "GGUF").what


def test_a_file_with_another_tokenizer_is_refused(in_all: tuple[Config, Run], monkeypatch: pytest.MonkeyPatch) -> None:
    config, run = in_all
    real = formats.vocabulary_of

    def swapped(*arguments: object) -> object:
        vocabulary = real(*arguments)  # type: ignore[arg-type]
        tokens = vocabulary.tokens
        a, b = tokens.index("e"), tokens.index("t")
        tokens[a], tokens[b] = tokens[b], tokens[a]
        return vocabulary

    monkeypatch.setattr(formats, "vocabulary_of", swapped)
    assert_refused(config, run, "GGUF tokenizer")


def test_a_disk_too_small_is_told_before_it_is_written(
    in_all: tuple[Config, Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, run = in_all
    monkeypatch.setattr(formats, "size_of", lambda weights, kind: 1 << 60)
    before = run.manifest("export")
    with pytest.raises(UserError, match="the GGUF file needs"):
        again(config, run)
    assert run.manifest("export") == before


@pytest.mark.parametrize(("overrides", "match"), [
    (["export.formats=[gguf]"], "hf is missing"),
    (["export.formats=[hf,gguf,gguf]"], "names a format twice"),
    (["export.formats=[hf,gguf]", "adapter.method=prompt"], "cannot be merged"),
    (["export.formats=[hf,adapter]", "adapter.method=full"], "no PEFT adapter"),
    (["export.formats=[hf,onnx]"], "formats"),
    (["export.gguf=q2_k"], "gguf"),
])  # fmt: skip
def test_contradictions(base: Path, tmp_path: Path, overrides: list[str], match: str) -> None:
    with pytest.raises(UserError, match=match):
        make_config(tmp_path, base, *overrides)


def test_it_is_read_from_yaml(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("name: a\nmodel: {base: x/y}\nexport: {formats: [hf, adapter], gguf: bf16}\n")
    export = load(path, ()).export
    assert (export.formats, export.gguf) == (("hf", "adapter"), "bf16")
