"""Each method from data to export, and what loads the export."""

from __future__ import annotations

import io
import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AutoPeftModelForCausalLM, PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from pipeline import stages
from pipeline.comparison import stage as comparison
from pipeline.comparison.answer_pairs import load_pairs
from pipeline.config.schema import Adapter, Compare, Config
from pipeline.evaluation.shots import Shots
from pipeline.model import adapter as adapters
from pipeline.model import base as bases
from pipeline.model.base.fingerprint import fingerprint
from pipeline.model.load import load_folder
from pipeline.prompt.stage import encoder_of
from pipeline.release import verify
from pipeline.run.folder import Run
from pipeline.serving import chat as chatting
from pipeline.training import checkpoint
from tests.helpers.methods import CHAINS, KINDS, PLAIN, UNMERGED, adapter_tensors, chain, logits, moved, save, stock
from tests.helpers.tiny import load_examples, make_base, make_config, run_to

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:peft", "ignore::RuntimeWarning:peft")


@pytest.mark.parametrize("kind", CHAINS)
def test_trains_resumes_and_exports(
    kind: str, prepared: Run, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Gone on after a step = not stopped; then the export, loaded as its card says."""
    config, run = chain(prepared, base, tmp_path, kind, "eval.prompts=[]", "chat.max_new_tokens=2")
    stages.bring_up_to_date(config, run, "train")
    counts = run.manifest("adapter")["counts"]
    assert counts["path"] == ("plain" if kind in PLAIN else "fast")
    assert f"{kind.split()[0]}: {counts['trained_parameters']:,} of " in " ".join(capsys.readouterr().out.split())
    whole = adapter_tensors(run)
    shutil.rmtree(run.folder("adapter"))
    shutil.rmtree(checkpoint.folder_of(run.folder("checkpoints"), 2))
    stages.bring_up_to_date(config, run, "export")
    assert "resuming from step 1 of 2" in " ".join(capsys.readouterr().out.split())
    resumed = adapter_tensors(run)
    assert resumed.keys() == whole.keys()
    assert all(torch.equal(t, whole[name]) for name, t in resumed.items())
    check_export(kind, config, run, base)
    if kind in UNMERGED:
        assert talks(config, run, monkeypatch) < 60
    if kind == "prompt":
        assert compares(config, run, tmp_path)


def check_export(kind: str, config: Config, run: Run, base: Path) -> None:
    encoder = encoder_of(config.prompt, base, config.model.add_tokens)
    export, examples = run.folder("export"), load_examples(run, "val")

    def says(model: Any) -> torch.Tensor:
        return verify.log_probabilities(model.eval(), encoder, examples)

    def plain() -> Any:
        return AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)

    made = json.loads((export / "suri.json").read_text())
    assert (made["method"], made["base_hash"]) == (
        kind.split()[0],
        fingerprint(config.model, bases.resolve(config.model), config.train.seed),
    )
    names = {"reload", "tokenizer and chat template", "answers stop"}
    assert names < made["checks"].keys()
    assert str(base.parent) not in (export / "README.md").read_text()
    assert AutoTokenizer.from_pretrained(export).eos_token_id == 2
    trained = says(adapters.load(plain(), run.folder("adapter")))
    assert verify.divergence(trained, says(plain())) > 1e-9
    if kind in UNMERGED:
        assert not list(export.glob("model*.safetensors"))
        named = json.loads((export / "adapter_config.json").read_text())["base_model_name_or_path"]
        assert named == str(base)  # absolute: it loads from any folder
        if kind == "prefix":
            auto = AutoPeftModelForCausalLM.from_pretrained(export, dtype=torch.float32)
            assert verify.divergence(trained, says(auto)) < 1e-7
        stock_peft = kind not in ("houlsby", "pfeiffer")
        reloaded = PeftModel.from_pretrained(plain(), export) if stock_peft else adapters.load(plain(), export)
        assert ("PeftModel.from_pretrained(AutoModel" in (export / "README.md").read_text()) == stock_peft
    else:
        reloaded = AutoModelForCausalLM.from_pretrained(export, dtype=torch.float32)
    assert verify.divergence(trained, says(reloaded)) < 1e-7
    if kind.startswith(("lora", "ia3")):  # on the original base, whatever the start did to it
        assert verify.divergence(trained, says(PeftModel.from_pretrained(plain(), run.folder("adapter")))) < 1e-9


@pytest.mark.parametrize("init", ["pissa", "olora"])
@pytest.mark.parametrize("rslora", [False, True])
def test_started_from_the_base_and_saved_for_it(init: Any, rslora: bool, tmp_path: Path) -> None:
    """Stock peft on the original base gives the logits of the model that was trained on what was left of it."""
    adapter = Adapter(r=4, alpha=7, init=init, rslora=rslora)
    model = stock()
    untouched = model.model.layers[0].mlp.up_proj.weight.detach().clone()
    trained = moved(adapters.attach(model, adapter, seed=1)).eval()
    assert (model.model.layers[0].mlp.up_proj.base_layer.weight - untouched).abs().max() > 1e-3
    save(trained, tmp_path)
    loaded = PeftModel.from_pretrained(stock(), tmp_path).eval()
    assert (logits(loaded) - logits(trained)).abs().max() < 1e-5
    assert (logits(loaded) - logits(stock())).abs().max() > 1e-2


def test_tied_head_is_untied_in_the_export(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base", tie_word_embeddings=True)
    config = make_config(tmp_path, base, "adapter.method=head", "train.max_steps=2", "eval.rows=1", "eval.prompts=[]")
    export = run_to(config, "export", tmp_path).folder("export")
    assert json.loads((export / "config.json").read_text())["tie_word_embeddings"] is False
    model, before = load_folder(export, torch.float32), load_folder(base, torch.float32)
    assert torch.equal(model.get_input_embeddings().weight, before.get_input_embeddings().weight)
    assert not torch.equal(model.lm_head.weight, before.lm_head.weight)


@pytest.mark.parametrize("kind", ["ia3", "prefix"])
def test_on_four_bits(kind: str, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    base = make_base(tmp_path / "base", hidden_size=64, intermediate_size=128)
    words = [f"adapter.{k}={str(v).lower()}" for k, v in KINDS[kind].items()]
    config = make_config(
        tmp_path, base, f"adapter.method={kind.split()[0]}", *words, "model.quantize=nf4", "train.max_steps=2",
        "eval.rows=1", "eval.prompts=[]",
    )  # fmt: skip
    run = run_to(config, "export", tmp_path)
    if kind not in UNMERGED:
        kinds = {t.dtype for t in load_file(run.folder("export") / "model.safetensors").values()}
        assert kinds == {torch.float32}


def test_none_compares_with_examples(
    prepared: Run, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, run = chain(prepared, base, tmp_path, "none", "adapter.shots=2", "chat.max_new_tokens=2")
    stages.bring_up_to_date(config, run, "export")
    said = capsys.readouterr().out
    assert "trains nothing" in said
    assert "0-shot" in said
    assert "2-shot" in said
    results = json.loads((run.folder("export") / "results.json").read_text())
    assert results["base"]["val"]["loss"] != results["tuned"]["val"]["loss"]
    assert not list(run.folder("export").glob("*.safetensors"))
    assert "| | 0-shot | 2-shot |" in (run.folder("export") / "README.md").read_text()
    encoder, examples = encoder_of(config.prompt, base, config.model.add_tokens), load_examples(run, "val")
    shots = Shots(encoder, load_examples(run, "train"), 2, 42, 512, 64)
    model = load_folder(base, torch.float32)
    total, learnt = 0.0, 0
    for example in examples[:2]:
        before, row = shots.before(example, 0), encoder.rows([example])[0]
        ids = before + row.ids if encoder.bos_id is None else [encoder.bos_id, *before, *row.ids[1:]]
        log_p = logits(model, torch.tensor([ids]))[0].log_softmax(-1)
        total -= sum(float(log_p[t - 1, ids[t]]) for t in range(len(ids) - row.labelled, len(ids)))
        learnt += row.labelled
    assert results["tuned"]["val"]["loss"] == pytest.approx(total / learnt, rel=1e-5)
    stages.bring_up_to_date(config, run, "export")
    assert capsys.readouterr().out.count("up to date") == 4
    assert compares(config, run, tmp_path)
    assert "2-shot: the same" in (run.folder("compare") / "page.html").read_text()


def test_examples_come_from_the_questions_task(prepared: Run, base: Path, tmp_path: Path) -> None:
    config = make_config(tmp_path, base)
    encoder, pool = encoder_of(config.prompt, base, config.model.add_tokens), load_examples(prepared, "train")
    shots, question = Shots(encoder, pool, 3, 1, 10_000, 10), load_examples(prepared, "val")[0]
    chosen = shots.chosen(question)
    same = sum(e.task == question.task for e in pool)
    assert [e.task for e in chosen][-min(3, same) :] == [question.task] * min(3, same)
    assert len({e.id for e in chosen}) == len(chosen) == 3
    assert shots.chosen(question) == chosen
    parts = [row.ids[encoder.bos_id is not None :] for row in encoder.rows(chosen)]
    own = encoder.prompt(question.instruction, question.input)
    bos = own[:1] if encoder.bos_id is not None else []
    assert shots.prompt(question) == [*bos, *itertools.chain(*parts), *own[len(bos) :]]
    narrow = Shots(encoder, pool, 3, 1, len(own) + len(parts[-1]) + 10, 10)
    assert narrow.prompt(question) == [*bos, *parts[-1], *own[len(bos) :]]
    assert Shots(encoder, pool, 0, 1, 10_000, 10).prompt(question) == own


def talks(config: Config, run: Run, monkeypatch: pytest.MonkeyPatch) -> int:
    """Asks one question in chat; returns how many tokens went in."""
    seen: list[int] = []
    reply = chatting.ChatSession.answer

    def watched(talker: Any, question: str, given: str) -> str:
        model = talker.talker.model
        generate = model.generate
        model.generate = lambda **k: (seen.append(k["input_ids"].shape[1]), generate(**k))[1]
        return reply(talker, question, given)

    with monkeypatch.context() as patch:
        patch.setattr("sys.stdin", io.StringIO("Say hello.\n"))
        patch.setattr(chatting.ChatSession, "answer", watched)
        chatting.chat(config, run)
    assert len(seen) == 1
    return seen[0]


def compares(config: Config, run: Run, folder: Path) -> bool:
    """Base and export answer 24 questions beside each other; whether they differ in one."""
    asked = [json.dumps({"instruction": f"What is {n} + {n * n}?"}) for n in range(24)]
    (folder / "asked.jsonl").write_text("\n".join(asked))
    settings = Compare(questions=(str(folder / "asked.jsonl"),), max_new_tokens=8)
    comparison.build(config.model_copy(update={"compare": settings}), run, {})
    return any(pair.base != pair.tuned for pair in load_pairs(run.folder("compare")))
