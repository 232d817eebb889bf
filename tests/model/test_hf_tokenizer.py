"""The exported tokenizer gives training's ids."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file
from tokenizers import Tokenizer as Fast
from tokenizers import processors
from transformers import AutoModelForCausalLM, AutoTokenizer

from pipeline.config.schema import Prompt
from pipeline.dataset.example import Example
from pipeline.dataset.read.conversation import conversation_rows
from pipeline.dataset.read.row import RawRow
from pipeline.model import hf_tokenizer
from pipeline.prompt import template as templates
from pipeline.prompt.encode import Encoder
from pipeline.prompt.stage import encoder_of
from pipeline.prompt.tokenizer import Tokenizer
from pipeline.release import verify
from pipeline.run.files import sha256_file
from tests.helpers.tiny import make_base, make_config, run_to
from tests.helpers.tokenizers import byte_level


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
    encoder = encoder_of(config.prompt, folder, config.model.add_tokens)
    for text in odd[:50]:
        given = tokenizer.apply_chat_template([{"role": "user", "content": text}], return_dict=False)
        assert given == encoder.prompt(text)


@pytest.mark.parametrize("name", ["alpaca", "koalpaca-v1.1", "qlora-alpaca"])
@pytest.mark.parametrize("kind", ["tokenizers", "llama"])
def test_system_messages_and_earlier_turns_are_rendered_as_they_were_trained(
    tmp_path: Path, request: pytest.FixtureRequest, name: str, kind: str
) -> None:
    """A chat client sends messages; training had rows that `conversation_rows` made of them."""
    if kind == "llama":
        folder = request.getfixturevalue("shared_data") / "llama_tokenizer"
    else:
        folder = byte_level(tmp_path / "base")
    encoder = Encoder(templates.load(name), Tokenizer(folder), Prompt())
    hf_tokenizer.save(hf_tokenizer.build(encoder, 512), encoder, tmp_path / "export")
    saved = hf_tokenizer.load(tmp_path / "export")
    texts = ("Q1", "A1", "안녕?", " A2\n", "Q3", "A3")
    turns = [(("user", "assistant")[i % 2], text) for i, text in enumerate(texts)]
    for system in ([], [("system", "Be brief.")]):
        for count in (2, 4, 6):
            messages = [{"role": role, "content": text} for role, text in [*system, *turns[:count]]]
            row = conversation_rows(RawRow({}, "here"), messages)[-1].value
            given = saved.apply_chat_template(messages[:-1], add_generation_prompt=True, return_dict=False)
            assert list(given) == encoder.prompt(row["instruction"], row["input"])


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
