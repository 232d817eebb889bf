"""The export: stock libraries load it, it is what was trained, and every check can fail."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from accelerate.state import AcceleratorState
from peft import PeftModel
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer as Fast
from tokenizers import processors
from transformers import AutoModelForCausalLM, AutoTokenizer

from pipeline.config.schema import Config, Prompt
from pipeline.dataset.example import Example
from pipeline.model import hf_tokenizer
from pipeline.model.base import resolve
from pipeline.prompt import template as templates
from pipeline.prompt.encode import Encoder
from pipeline.prompt.stage import encoder_of
from pipeline.prompt.tokenizer import Tokenizer
from pipeline.prompt.tokens import Tokens
from pipeline.release import card as cards
from pipeline.release import stage as releasing
from pipeline.release import verify
from pipeline.run.errors import UserError
from pipeline.run.files import sha256_file
from pipeline.run.folder import Run
from tests.helpers.tiny import load_examples, make_base, make_config, run_to


@pytest.fixture(scope="module")
def exported(base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, Run]:
    folder = tmp_path_factory.mktemp("exported")
    config = make_config(folder, base)
    return config, run_to(config, "export", folder)


@pytest.fixture
def copy(exported: tuple[Config, Run], base: Path, tmp_path: Path) -> tuple[Config, Run]:
    """The finished run in a folder of its own, to be spoilt."""
    shutil.copytree(exported[1].root, tmp_path / "tiny")
    return make_config(tmp_path, base, "eval.rows=1", "eval.prompts=[]"), Run(tmp_path / "tiny")


def again(config: Config, run: Run) -> None:
    """The export stage alone, on whatever lies in the run folder."""
    with run.lock():
        releasing.export(config, run, resolve(config.model), {"again": 1})


def assert_refused(config: Config, run: Run, name: str) -> UserError:
    """The export stops, names the check, and leaves the old export as it was."""
    before = {p: p.read_bytes() for p in run.folder("export").rglob("*") if p.is_file()}
    with pytest.raises(UserError, match=re.escape(f"failed its check {name!r}")) as caught:
        again(config, run)
    assert {p: p.read_bytes() for p in run.folder("export").rglob("*") if p.is_file()} == before
    assert not [p.name for p in run.root.iterdir() if p.name.endswith((".tmp", ".old"))]
    assert caught.value.fix
    return caught.value


def logits(model: Any, ids: list[int]) -> torch.Tensor:
    with torch.inference_mode():
        return model.eval()(input_ids=torch.tensor([ids])).logits[0].float()


def test_stock_libraries_load_it_and_agree(exported: tuple[Config, Run], base: Path) -> None:
    config, run = exported
    encoder = encoder_of(config, base)
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
    assert yaml.safe_load(front) == {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["suri", "instruction-tuning", "alpaca-short"],
    }
    results = json.loads((run.folder("export") / "results.json").read_text())
    assert f"| {results['base']['val']['loss']:.3f} | {results['tuned']['val']['loss']:.3f} |" in body
    assert sha256_file(run.folder("dataset") / "train.jsonl") in body
    assert "82 instructions, 6 steps" in body
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
    text = cards.card(config, run, encoder_of(config, base), results, {})
    assert f". {counts['train']['rows']:,} instructions, " in text
    assert f"Rows: {counts['train']['rows']:,} train, {counts['val']['rows']:,} held out, " in text
    assert f", {rejected:,} of them as too long." in text


@pytest.mark.parametrize("method", ["houlsby", "prefix"])
def test_the_card_of_an_adapter_names_its_base(
    exported: tuple[Config, Run], base: Path, tmp_path: Path, method: str
) -> None:
    results = json.loads((exported[1].folder("export") / "results.json").read_text())
    for name, shown in (("org/name", "org/name"), (str(base), base.name)):
        config = make_config(tmp_path, base, f"model.base={name}", f"adapter.method={method}")
        text = cards.card(config, exported[1], encoder_of(config, base), results, {})
        assert f"BASE is `{shown}`, PATH this folder" in text
        assert "NAME" not in text


def test_hub_base_is_named_in_the_card(exported: tuple[Config, Run], base: Path, tmp_path: Path) -> None:
    config = make_config(tmp_path, base, "model.base=org/name")
    results = json.loads((exported[1].folder("export") / "results.json").read_text())
    text = cards.card(config, exported[1], encoder_of(config, base), results, {})
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
    made, encoder = json.loads((folder / "suri.json").read_text()), encoder_of(config, base)
    assert made["template"] == {"id": "alpaca-short", "hash": encoder.template.hash}
    assert (made["tokenizer"], made["end_id"]) == (encoder.tokenizer.hash, 2)
    names = {"adapter not empty", "merged = base + adapter", "reload", "tokenizer and chat template", "answers stop"}
    assert made["checks"].keys() == names


def spoil(run: Run, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
    path = run.folder("adapter") / "adapter_model.safetensors"
    save_file(change(load_file(path)), path)


def test_adapters_that_learnt_nothing(copy: tuple[Config, Run]) -> None:
    config, run = copy
    spoil(run, lambda t: {n: x * 0 if "lora_B" in n else x for n, x in t.items()})
    assert "nothing was learnt" in assert_refused(config, run, "adapter not empty").what
    spoil(run, lambda t: {n: x / 0 for n, x in t.items()})
    assert "NaN" in assert_refused(config, run, "adapter not empty").what
    spoil(run, lambda t: {})
    assert "no trained tensors" in assert_refused(config, run, "adapter not empty").what
    path = run.folder("adapter") / "adapter_model.safetensors"
    path.write_bytes(b"")
    assert "damaged" in assert_refused(config, run, "adapter not empty").what
    path.unlink()
    assert "no trained tensors" in assert_refused(config, run, "adapter not empty").what


def test_adapter_of_another_base(copy: tuple[Config, Run]) -> None:
    config, run = copy
    spoil(run, lambda t: {n.replace("layers.1", "layers.7"): x for n, x in t.items()})
    with pytest.raises(UserError, match=r"does not fit this base: \d+ tensors do not match"):
        again(config, run)


def test_other_template_or_tokenizer(copy: tuple[Config, Run]) -> None:
    config, run = copy
    path = run.folder("adapter") / "suri.json"
    made = json.loads(path.read_text())
    path.write_text(json.dumps({**made, "tokenizer": "0" * 16}))
    assert "0000000000000000" in assert_refused(config, run, "tokenizer").what
    path.write_text(json.dumps({**made, "template": {"id": "x", "hash": "f" * 16}}))
    said = assert_refused(config, run, "template").what
    assert "ffffffffffffffff" in said
    assert made["template"]["hash"] in said


def test_tampered_merge(copy: tuple[Config, Run], monkeypatch: pytest.MonkeyPatch) -> None:
    config, run = copy
    merge = releasing._merge

    def tampered(tuned: Any, config: Config, dtype: str) -> Any:
        model = merge(tuned, config, dtype)
        model.model.layers[0].self_attn.v_proj.weight.data *= 3
        return model

    monkeypatch.setattr(releasing, "_merge", tampered)
    assert_refused(config, run, "merged = base + adapter")

    def unmerged(tuned: Any, config: Config, dtype: str) -> Any:
        return tuned.unload()

    monkeypatch.setattr(releasing, "_merge", unmerged)
    assert_refused(config, run, "merged = base + adapter")


def test_merge_check_sees_rounding_and_idle_adapters() -> None:
    torch.manual_seed(0)
    base = torch.randn(5, 11).log_softmax(-1)
    near = (base + 0.01 * torch.randn(5, 11)).log_softmax(-1)
    checks = verify.Checks()
    with pytest.raises(UserError, match="the adapter changes nothing"):
        verify.merged_equals_adapter(base, base, base, verify.tolerance("fp32"), checks)
    with pytest.raises(UserError, match="rounding ate what was learnt"):
        verify.merged_equals_adapter(near, base, base, verify.tolerance("bf16"), checks)
    verify.merged_equals_adapter(near, near, base, verify.tolerance("fp32"), checks)
    assert verify.tolerance("fp32", "none", "bf16") == (verify.TOLERANCE["bf16"], "bf16")
    assert verify.divergence(base, near) == pytest.approx(float((base.exp() * (base - near)).sum(-1).mean()), rel=1e-4)


def test_reload_differs(copy: tuple[Config, Run], monkeypatch: pytest.MonkeyPatch) -> None:
    config, run = copy
    load = releasing.load_folder

    def damaged(folder: Path, dtype: torch.dtype) -> Any:
        model = load(folder, dtype)
        model.lm_head.weight.data[5] += 1
        return model

    monkeypatch.setattr(releasing, "load_folder", damaged)
    assert_refused(config, run, "reload")


@pytest.mark.parametrize("what", ["chat template", "tokenizer", "end token"])
def test_tokenizer_differs(copy: tuple[Config, Run], monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    config, run = copy
    build = hf_tokenizer.build

    def other(*given: Any) -> Any:
        tokenizer = build(*given)
        if what == "chat template":
            tokenizer.chat_template = tokenizer.chat_template.replace("### Response:", "### Answer:")
        elif what == "tokenizer":
            tokenizer.add_bos_token = True
        else:
            tokenizer.eos_token = "<s>"
        return tokenizer

    monkeypatch.setattr(hf_tokenizer, "build", other)
    said = assert_refused(config, run, "tokenizer and chat template").what
    assert f"the {what} gives other ids" in said or "its end token is 1, training's is 2" in said


def test_answers_that_never_stop(base: Path, copy: tuple[Config, Run], tmp_path: Path) -> None:
    config = make_config(tmp_path, base, "export.min_eos=1.0", "eval.rows=1")
    said = assert_refused(config, copy[1], "answers stop")
    assert "0% of 8 answers" in said.what
    shutil.rmtree(copy[1].folder("export"))
    with pytest.raises(UserError, match="answers stop"):
        again(config, copy[1])
    assert not copy[1].folder("export").exists()


def test_every_weight_trained(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = make_config(tmp_path, base, "adapter.method=full", "train.lr=1e-3", "eval.rows=1", "eval.prompts=[]")
    run = run_to(config, "export", tmp_path)
    trained, saved = (load_file(run.folder(f) / "model.safetensors") for f in ("adapter", "export"))
    assert all(torch.equal(tensor, saved[name]) for name, tensor in trained.items())
    assert "all weights trained" in (run.folder("export") / "README.md").read_text()
    shutil.copyfile(base / "model.safetensors", run.folder("adapter") / "model.safetensors")
    assert "nothing was learnt" in assert_refused(config, run, "weights changed").what


@pytest.mark.parametrize(
    ("moved", "share"),
    # A step of bf16 is 1/128 above one and 1/256 below: 1e-3 is lost everywhere, 1/64 nowhere.
    [(1e-3, "1"), (1 / 64, "0")],
)
def test_what_rounding_takes_of_a_change(tmp_path: Path, moved: float, share: str) -> None:
    start = {"a": torch.ones(4), "b": torch.ones(2, 2).to(torch.bfloat16), "elsewhere": torch.ones(1)}
    save_file({"a": start["a"] + moved, "b": start["b"].float() - moved}, tmp_path / "adapter_model.safetensors")
    checks = verify.Checks()
    if share == "1":
        with pytest.raises(UserError, match="moves the weights by 1 of what training moved them by: it eats"):
            verify.change_survives(tmp_path, start, torch.bfloat16, checks, "bf16")
    else:
        verify.change_survives(tmp_path, start, torch.bfloat16, checks, "bf16")
        assert f"weights by {share} of" in checks.done["rounding"]
    verify.change_survives(tmp_path, start, torch.float32, checks, "fp32")


def test_small_changes_are_not_exported_in_bf16_as_if_they_were_there(base: Path, tmp_path: Path) -> None:
    words = ("adapter.method=full", "train.lr=1e-6", "train.max_steps=2", "eval.rows=1", "eval.prompts=[]")
    run = run_to(make_config(tmp_path, base, *words), "train", tmp_path)
    assert_refused(make_config(tmp_path, base, *words, "export.dtype=bf16"), run, "rounding")


def test_norms_trained_in_bf16_are_exported_as_they_were_trained(base: Path, tmp_path: Path) -> None:
    """Gains near one move by less than a step of bf16."""
    AcceleratorState._reset_state(True)  # one process takes one precision
    try:
        words = (
            "adapter={method: norms}", "model.dtype=bf16", "export.dtype=fp32", "train.lr=1e-3", "eval.rows=1",
            "train.max_steps=2", "eval.prompts=[]",
        )  # fmt: skip
        run = run_to(make_config(tmp_path, base, *words), "export", tmp_path)
    finally:
        AcceleratorState._reset_state(True)
    saved = load_file(run.folder("export") / "model.safetensors")
    trained = load_file(run.folder("adapter") / "adapter_model.safetensors")
    assert all(torch.equal(tensor, saved[name]) for name, tensor in trained.items())


def test_export_in_bf16(copy: tuple[Config, Run], base: Path, tmp_path: Path) -> None:
    config = make_config(tmp_path, base, "export.dtype=bf16", "eval.rows=1", "eval.prompts=[]")
    again(config, copy[1])
    folder = copy[1].folder("export")
    assert {t.dtype for t in load_file(folder / "model.safetensors").values()} == {torch.bfloat16}
    assert json.loads((folder / "config.json").read_text())["dtype"] == "bfloat16"
    assert "in bf16" in json.loads((folder / "suri.json").read_text())["checks"]["merged = base + adapter"]


@pytest.mark.parametrize("kind", ["PreTrainedTokenizerFast", "LlamaTokenizer", "GPT2Tokenizer"])
@pytest.mark.parametrize("adds", [True, False])
@pytest.mark.parametrize("bos", ["auto", "none", "<s>"])
def test_tokenizer_keeps_its_habits(kind: str, adds: bool, bos: str, base: Path, tmp_path: Path) -> None:
    """Whatever class the base names and whether it adds BOS by itself: one opening, the one of training."""
    folder = tmp_path / "tokenizer"
    shutil.copytree(base, folder)
    fast = Fast.from_file(str(folder / "tokenizer.json"))
    if adds:
        fast.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    fast.save(str(folder / "tokenizer.json"))
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "tokenizer_class": kind}))
    encoder = Encoder(templates.load("alpaca"), Tokenizer(folder), Prompt(bos=bos))
    (tmp_path / "export").mkdir()
    hf_tokenizer.save(hf_tokenizer.build(encoder, 512), encoder, tmp_path / "export")
    saved = AutoTokenizer.from_pretrained(tmp_path / "export")
    examples = [Example.of("Say 12345.", "", "", source="test"), Example.of("Say  it.", " x\n", "", source="test")]
    verify.tokenizer_agrees(saved, encoder, examples, verify.Checks())
    assert (encoder.prompt("a")[0] == 1) == (bos == "<s>" or (bos == "auto" and adds))
    settings = json.loads((tmp_path / "export" / "tokenizer_config.json").read_text())
    assert settings["tokenizer_class"] == "PreTrainedTokenizerFast"


def test_llama_sentencepiece(shared_data: Path, tmp_path: Path) -> None:
    """LLaMA-1's tokenizer.model is the truth: the exported fast tokenizer agrees with it, odd spaces included."""
    folder = shared_data / "llama_tokenizer"
    if not (folder / "tokenizer.model").is_file():
        pytest.skip(f"no tokenizer.model in {folder}")
    base = make_base(tmp_path / "base", vocab_size=32000, hidden_size=16, intermediate_size=16)
    config = make_config(
        tmp_path, base, f"model.tokenizer={folder}", "prompt.template=alpaca", "prompt.join=joint", "prompt.cutoff=400",
        "train.max_steps=2", "eval.rows=1", "eval.prompts=[]", "data.sources.0.rows=60",
    )  # fmt: skip
    run = run_to(config, "export", tmp_path)
    assert sha256_file(run.folder("export") / "tokenizer.model") == sha256_file(folder / "tokenizer.model")
    tokenizer, own = AutoTokenizer.from_pretrained(run.folder("export")), Tokenizer(folder)
    rows = json.loads((shared_data / "alpaca_data.json").read_text())
    odd = [r["instruction"] + "\n" + r["input"] + r["output"] for r in rows]
    odd = [t for t in odd if "  " in t or "\t" in t][:300]
    assert len(odd) == 300
    prompts = [f"Below.\n\n### Instruction:\n{t}  \n\n### Response:" for t in odd]
    assert tokenizer(prompts).input_ids == [[1, *ids] for ids in own.encode(prompts)]
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (1, 2)
    encoder = encoder_of(config, folder)
    for text in odd[:50]:
        given = tokenizer.apply_chat_template([{"role": "user", "content": text}], return_dict=False)
        assert given == encoder.prompt(text)


def test_polyglot_class(tmp_path: Path) -> None:
    """GPT-NeoX with KoAlpaca's form: its answers begin with a space and end with <|endoftext|>, absent here."""
    base = make_base(tmp_path / "base", model_type="gpt_neox", num_key_value_heads=None)
    config = make_config(
        tmp_path, base, "adapter.targets=[query_key_value]", "prompt.template=koalpaca-v1.1", "eval.rows=1",
        "eval.prompts=[]", 'model.add_tokens=["[PAD]"]',
    )  # fmt: skip
    run = run_to(config, "export", tmp_path)
    model = AutoModelForCausalLM.from_pretrained(run.folder("export"))
    assert type(model).__name__ == "GPTNeoXForCausalLM"
    assert model.get_input_embeddings().weight.shape[0] == 401
    names = set(load_file(run.folder("adapter") / "adapter_model.safetensors"))
    assert sum("token_adapter" in name for name in names) == 2  # its rows in the embedding and in the head
    assert any("query_key_value" in name for name in names)
