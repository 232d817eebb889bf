"""One batch, several adapters: the same as each alone."""

from __future__ import annotations

import io
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import IA3Config, PeftModel, PrefixTuningConfig

from pipeline.cli.talk import ask
from pipeline.config.schema import Config
from pipeline.model.base import resolve
from pipeline.model.generate import greedy
from pipeline.model.run_base import RunBase
from pipeline.run.errors import UserError
from pipeline.run.folder import Run
from pipeline.run.terminal import safe
from pipeline.serving.mixed import MixedModel, Reply
from pipeline.serving.questions import AdapterQuestion, read_questions
from pipeline.store.folder import Store
from tests.helpers.stored_adapters import change_record, plain, put
from tests.helpers.tiny import make_base, make_config

NAMES = ["one", "base", "two", "train", "one", "셋"]


@pytest.fixture(scope="module")
def store(config: Config, lora_store: Store, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Two more LoRAs: one has the name of a method of torch's modules."""
    made = Store(Path(shutil.copytree(lora_store.root, tmp_path_factory.mktemp("store"), dirs_exist_ok=True)))
    put(made, "train", config, 4, r=2, target_modules=["up_proj"])
    put(made, "셋", config, 5, r=1, target_modules=["down_proj"], layers_to_transform=[1])
    return made


@pytest.fixture(scope="module")
def mixed(config: Config, store: Store) -> MixedModel:
    return MixedModel(RunBase.of(config, resolve(config.model)), store, NAMES)


def alone(base: Path, store: Store, name: str) -> Any:
    """The base with one adapter, as stock peft loads it."""
    model = plain(base)
    return model if name == "base" else PeftModel.from_pretrained(model, store.folder(name)).eval()


@pytest.mark.parametrize("side", ["left", "right"])
@torch.inference_mode()
def test_logits_of_a_mixed_batch(mixed: MixedModel, base: Path, store: Store, side: str) -> None:
    torch.manual_seed(0)
    rows = [torch.randint(3, 400, (n,)) for n in (9, 30, 17, 4, 22, 13)]
    ids, mask = torch.zeros(6, 30, dtype=torch.long), torch.zeros(6, 30, dtype=torch.long)
    for i, row in enumerate(rows):
        span = slice(30 - len(row), 30) if side == "left" else slice(0, len(row))
        ids[i, span], mask[i, span] = row, 1
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    found = mixed.model(
        input_ids=ids, attention_mask=mask, position_ids=positions, adapter_names=[mixed.peft_names[n] for n in NAMES]
    ).logits
    for i, name in enumerate(NAMES):
        wanted = alone(base, store, name)(input_ids=rows[i][None]).logits[0]
        assert torch.allclose(found[i][mask[i].bool()], wanted, rtol=0, atol=1e-6), name
    without = plain(base)(input_ids=ids, attention_mask=mask, position_ids=positions).logits
    for i, name in enumerate(NAMES):  # each does something, and something of its own
        apart = (without[i] - found[i])[mask[i].bool()].abs().max()
        assert apart == 0 if name == "base" else apart > 1e-3


def test_answers_are_those_of_each_alone(
    mixed: MixedModel, base: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Token by token, whatever else is in the batch."""
    questions = [
        AdapterQuestion(name, f"What is {'really ' * i}{i} + 3?", "x y" if i % 2 else "")
        for i, name in enumerate(NAMES)
    ]
    prompts = [mixed.encoders[q.adapter].prompt(q.instruction, q.input) for q in questions]
    inside = [mixed.peft_names[q.adapter] for q in questions]
    how: dict[str, Any] = {"end_id": 2, "max_new_tokens": 24, "what": "test"}
    together = greedy(mixed.model, prompts, adapters=inside, **how)
    assert len({tuple(ids) for ids in together}) > 3
    for name, prompt, ids in zip(NAMES, prompts, together, strict=True):
        assert greedy(alone(base, store, name), [prompt], **how) == [ids], name
    replies = mixed.answer(questions, 24)
    for q, reply, ids in zip(questions, replies, together, strict=True):
        text = mixed.encoders[q.adapter].tokenizer.decode(ids[:-1] if ids[-1] == 2 else ids)
        assert reply == Reply(text, ids[-1] == 2)
    for batch in (1, 2):
        monkeypatch.setattr("pipeline.model.generate.CPU_ROWS", batch)
        assert mixed.answer(questions, 24) == replies
    assert mixed.answer(questions[::-1], 24) == replies[::-1]


def test_only_the_base(config: Config, store: Store, mixed: MixedModel) -> None:
    question = AdapterQuestion("base", "What is 2 + 3?")
    bare = MixedModel(RunBase.of(config, resolve(config.model)), store, ["base"])
    assert bare.answer([question], 8) == mixed.answer([question], 8)
    assert bare.answer([], 8) == []


def test_each_adapter_speaks_its_own_template(config: Config, base: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "adapters")
    other = make_config(tmp_path, base, "prompt.template=koalpaca-v1.1", "prompt.bos=none")
    put(store, "mine", config, 1)
    put(store, "theirs", other, 1)
    mixed = MixedModel(RunBase.of(config, resolve(config.model)), store, ["mine", "theirs"])
    assert "### 질문" in mixed.encoders["theirs"].template.prompt("Hi")
    prompts = [mixed.encoders[name].prompt("Hi") for name in ("mine", "theirs", "base")]
    assert prompts[0] == prompts[2] != prompts[1]
    replies = mixed.answer([AdapterQuestion("theirs", "Hi"), AdapterQuestion("mine", "Hi")], 8)
    apart = greedy(alone(base, store, "theirs"), [prompts[1]], end_id=2, max_new_tokens=8, what="test")
    assert replies[0].text == mixed.encoders["theirs"].tokenizer.decode(apart[0]).removeprefix(" ")
    record = store.record("theirs")
    change_record(store, "theirs", template={**record["template"], "prompt_input": "{instruction} {input}"})
    with pytest.raises(UserError, match="template"):
        MixedModel(RunBase.of(config, resolve(config.model)), store, ["theirs"])


def test_no_room_for_an_answer(mixed: MixedModel) -> None:
    with pytest.raises(UserError, match="512") as caught:
        mixed.answer([AdapterQuestion("two", "Hi"), AdapterQuestion("one", "word " * 600)], 8)
    assert caught.value.where == "question 2"
    with pytest.raises(UserError, match="512") as caught:
        mixed.answer(read_questions(["two: Hi", "", "one:" + " word" * 600]), 8)
    assert caught.value.where == "line 3"


def test_new_tokens_of_the_config(base: Path, store: Store, tmp_path: Path) -> None:
    """The base alone, in a form that begins with one of them."""
    added = make_config(tmp_path, base, 'model.add_tokens=["[BEGIN]"]', "prompt.bos='[BEGIN]'")
    mixed = MixedModel(RunBase.of(added, resolve(added.model)), store, ["base"])
    assert mixed.encoders["base"].prompt("Hi")[0] == len(mixed.model.get_input_embeddings().weight) - 1
    assert len(mixed.answer([AdapterQuestion("base", "Hi")], 2)) == 1


def test_a_base_that_mixes_rows_up(tmp_path: Path) -> None:
    """OPT flattens rows before its feed-forward layers, so peft cannot tell whose they are."""
    shape = {"ffn_dim": 48, "word_embed_proj_dim": 32, "pad_token_id": 0}
    config = make_config(tmp_path, make_base(tmp_path / "opt", model_type="opt", **shape))
    store = Store(tmp_path / "adapters")
    put(store, "fine", config, 1, target_modules=["q_proj", "v_proj"])
    put(store, "flat", config, 2, target_modules=["fc1"])
    mixed = MixedModel(RunBase.of(config, resolve(config.model)), store, ["fine"])
    assert len(mixed.answer([AdapterQuestion("fine", "Hi")], 2)) == 1
    with pytest.raises(UserError, match="opt") as caught:
        MixedModel(RunBase.of(config, resolve(config.model)), store, ["fine", "flat"])
    assert caught.value.fix == "talk to one at a time: `make chat ADAPTER=fine`"


def test_what_cannot_be_mixed(config: Config, base: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "adapters")
    put(store, "good", config, 1)
    put(store, "dora", config, 2, use_dora=True)
    put(store, "tokens", config, 3, trainable_token_indices={"embed_tokens": [5]})
    put(store, "ia", config, 4, IA3Config(target_modules=["v_proj"], feedforward_modules=[], task_type="CAUSAL_LM"))
    put(store, "prefix", config, 5, PrefixTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM"))
    put(store, "elsewhere", config, 6)
    change_record(store, "elsewhere", base={"name": "other", "hash": "0" * 64})
    for name, what in (
        ("dora", "it is a DoRA"),
        ("tokens", "it brings tokens or layers of its own"),
        ("ia", "it is of the method ia3"),
        ("prefix", "it is of the method"),
        ("elsewhere", "elsewhere was trained on another base: other"),
        ("nobody", "no adapter is called nobody"),
        ("../good", "which an adapter's name cannot"),
    ):
        with pytest.raises(UserError, match=what):
            MixedModel(RunBase.of(config, resolve(config.model)), store, ["good", name])


def test_questions() -> None:
    lines = ["maths: What is 2: or 3?\n", "\n", '{"adapter": "수학", "instruction": "Sum", "input": "1"}', "base:x"]
    wanted = [
        AdapterQuestion("maths", "What is 2: or 3?"),
        AdapterQuestion("수학", "Sum", "1"),
        AdapterQuestion("base", "x"),
    ]
    assert read_questions(lines) == wanted
    assert [question.line for question in read_questions(lines)] == [1, 3, 4]
    assert read_questions(["\ufeff" + lines[0], *lines[1:]]) == wanted
    told = '{"adapter": "a", "instruction": '
    fields = (
        "{}",
        '{"adapter": "a"}',
        told + "3}",
        told + '"x", "y": "z"}',
        told + '"x", "line": "1"}',
        told + '"\\ud800"}',
    )
    for bad in ("no colon", "maths:", ": x", "../x: y", '{"adapter": ""}', "{", "{" * 10_000, *fields):
        with pytest.raises(UserError) as caught:
            read_questions(["base: fine", bad])
        assert "line 2" in caught.value.where
    with pytest.raises(UserError, match="no questions"):
        read_questions(["", "  "])
    with pytest.raises(UserError, match="not UTF-8"):
        read_questions(io.TextIOWrapper(io.BytesIO(b"base: \xff"), encoding="utf-8"))


def test_the_command(
    config: Config, store: Store, mixed: MixedModel, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ADAPTERS", str(store.root))
    monkeypatch.setattr("sys.stdin", io.StringIO("one: Name a colour.\nbase: Name a colour.\n"))
    short = config.chat.model_copy(update={"max_new_tokens": 3})
    ask(config.model_copy(update={"chat": short}), Run(Path("unused")))
    said = capsys.readouterr().out
    for name in ("one", "base"):
        reply = mixed.answer([AdapterQuestion(name, "Name a colour.")], 3)[0]
        assert f"{name}> Name a colour.\n{safe(reply.text.strip())}" in said
    assert "[cut off after 3 tokens]" in said
