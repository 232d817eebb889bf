"""`make eval` through lm-evaluation-harness, on a tiny model and questions in files."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline import stages
from pipeline.config.schema import Config
from pipeline.model.base import resolve
from pipeline.model.load import load_folder
from pipeline.model.loss import row_losses
from pipeline.model.run_base import RunBase
from pipeline.prompt.batch import PaddedBatch
from pipeline.prompt.encode import IGNORE
from pipeline.run.errors import UserError
from pipeline.run.files import read_json
from pipeline.run.folder import Run
from tests.helpers.tiny import load_examples, make_config

pytestmark = pytest.mark.eval
pytest.importorskip("lm_eval", reason="the extra `eval` is not installed (make eval)")
TASKS = "eval.tasks=[arc_easy,lambada_openai,mmlu]"


def questions(folder: Path) -> Path:
    """Five ARC questions, four passages, three MMLU questions of two subjects; one is longer than the model sees."""
    folder.mkdir()
    arc = [
        {"query": f"Question: What is {a} and {a}?", "choices": ["no", f"{2 * a}", "blue"], "gold": 1} for a in range(5)
    ]
    (folder / "arc_easy.jsonl").write_text("".join(json.dumps(r) + "\n" for r in arc))
    lambada = [{"context": "word " * n + "and the last", "continuation": "word"} for n in (1, 2, 3, 700)]
    (folder / "lambada_openai.jsonl").write_text("".join(json.dumps(r) + "\n" for r in lambada))
    (folder / "mmlu").mkdir()
    head = "question,choice0,choice1,choice2,choice3,answer\n"
    (folder / "mmlu" / "anatomy_test.csv").write_text(head + "Where?,a,b,c,d,0\nWhy?,a,b,c,d,2\n")
    (folder / "mmlu" / "virology_test.csv").write_text(head + "Who?,a,b,c,d,3\n")
    return folder


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory, base: Path) -> tuple[Config, Run]:
    folder = tmp_path_factory.mktemp("evaluated")
    files = questions(folder / "files")
    config = make_config(folder, base, TASKS, f"eval.task_files={files}", "eval.shots=2", "train.max_steps=2")
    run = Run(folder / "run")
    stages.bring_up_to_date(config, run, "eval")
    return config, run


def test_the_table_has_every_number_and_its_error(evaluated: tuple[Config, Run]) -> None:
    _, run = evaluated
    record = read_json(run.folder("eval") / "eval.json")
    rows = {(r["name"], r["metric"]): r for r in record["rows"]}
    names = ["held-out rows", "tasks never trained on", "general text", "arc_easy", "lambada_openai", "mmlu",
             "mmlu_anatomy", "mmlu_virology"]  # fmt: skip
    assert list(dict.fromkeys(name for name, _ in rows)) == names
    assert rows["arc_easy", "acc_norm"]["n"] == 5
    assert rows["mmlu", "acc"]["n"] == 3
    assert rows["held-out rows", "loss"]["shots"] != rows["held-out rows", "loss"]["base"]
    for values in rows.values():
        assert None not in (values["base"], values["tuned"], values["change"])
        assert (values["change_error"] is None) == (values["n"] == 1)
        assert values["change"] == pytest.approx(values["tuned"] - values["base"])
    assert "1 pass lost its beginning" in rows["lambada_openai", "acc"]["note"]
    page = (run.folder("eval") / "eval.md").read_text()
    assert "base, 2-shot" in page
    assert "lm_eval run" in page
    assert (run.folder("eval") / "eval.png").stat().st_size > 5000


def test_the_harness_alone_gives_the_same_numbers(evaluated: tuple[Config, Run]) -> None:
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    _, run = evaluated
    manager = TaskManager(include_path=str(run.folder("benchmarks") / "tasks"), include_defaults=False)
    names = {"arc_easy": ["acc", "acc_norm"], "lambada_openai": ["acc", "perplexity"], "mmlu": ["acc"]}
    theirs = simple_evaluate(
        "hf", model_args={"pretrained": str(run.folder("export")), "dtype": "float32"}, batch_size=8, device="cpu",
        tasks=[f"{name}_local" for name in names], task_manager=manager, bootstrap_iters=10,
    )["results"]  # fmt: skip
    ours = {(r["name"], r["metric"]): r["tuned"] for r in read_json(run.folder("eval") / "eval.json")["rows"]}
    for name, metrics in names.items():
        for metric in metrics:
            assert ours[name, metric] == theirs[f"{name}_local"][f"{metric},none"]


def test_local_definitions_differ_from_the_hubs_in_where_rows_come_from_alone(evaluated: tuple[Config, Run]) -> None:
    import lm_eval
    from lm_eval.tasks._yaml_loader import load_yaml

    _, run = evaluated
    for name, place in (("arc_easy", "arc/arc_easy"), ("mmlu_anatomy", "mmlu/default/mmlu_anatomy")):
        theirs = load_yaml(Path(lm_eval.__file__).parent / f"tasks/{place}.yaml", resolve_func=False)
        ours = load_yaml(run.folder("benchmarks") / f"tasks/{name}_local.yaml", resolve_func=False)
        changed = {key for key in theirs | ours if theirs.get(key) != ours.get(key)}
        assert changed <= {"task", "tag", "dataset_path", "dataset_name", "dataset_kwargs", "training_split",
                           "validation_split", "fewshot_split"}  # fmt: skip


def test_what_was_measured_is_not_measured_again(
    evaluated: tuple[Config, Run], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from pipeline.evaluation import stage

    config, run = evaluated
    stages.bring_up_to_date(config, run, "eval")
    assert "eval: up to date" in " ".join(capsys.readouterr().out.split())

    measured: list[tuple[str, str]] = []
    real = stage.Evaluation._ask

    def counting(self: Any, model: Any, task: str, who: str) -> dict[str, Any]:
        if len(measured) == 2:
            raise KeyboardInterrupt
        measured.append((who, task))
        return real(self, model, task, who)

    monkeypatch.setattr(stage.Evaluation, "_ask", counting)
    before = read_json(run.folder("eval") / "eval.json")
    wanted = config.eval.model_copy(update={"limit": 2})
    short = config.model_copy(update={"eval": wanted})
    with pytest.raises(KeyboardInterrupt):
        stages.bring_up_to_date(short, run, "eval")
    assert measured == [("base", "arc_easy"), ("base", "lambada_openai")]  # held-out rows do not depend on the limit
    assert read_json(run.folder("eval") / "eval.json") == before
    measured.clear()
    monkeypatch.setattr(stage.Evaluation, "_ask", lambda *a: measured.append((a[3], a[2])) or real(*a))
    stages.bring_up_to_date(short, run, "eval")
    assert measured == [("base", "mmlu"), ("tuned", "arc_easy"), ("tuned", "lambada_openai"), ("tuned", "mmlu")]
    assert {r["n"] for r in read_json(run.folder("eval") / "eval.json")["rows"] if r["name"] == "arc_easy"} == {2}


def test_a_model_that_gives_nan_is_named(evaluated: tuple[Config, Run]) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from pipeline.evaluation.harness import Harness

    _, run = evaluated
    model = AutoModelForCausalLM.from_pretrained(run.folder("export"))
    model.get_output_embeddings().weight.data[5] = float("nan")
    tokenizer = AutoTokenizer.from_pretrained(run.folder("export"))
    harness = Harness(model, tokenizer, run.folder("benchmarks") / "tasks", 0)
    with pytest.raises(UserError, match="NaN") as error:
        harness.ask("arc_easy", 1, 0, False, "tuned")
    assert error.value.where == "benchmark tuned: arc_easy"
    with pytest.raises(UserError, match="arc_eazy") as error:
        harness.ask("arc_eazy", 1, 0, False, "tuned")
    assert "did you mean arc_easy" in error.value.fix


def test_questions_in_the_training_template(evaluated: tuple[Config, Run]) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from pipeline.evaluation.harness import Harness

    _, run = evaluated
    tokenizer = AutoTokenizer.from_pretrained(run.folder("export"))
    model = AutoModelForCausalLM.from_pretrained(run.folder("export"))
    seen: list[str] = []
    model.register_forward_pre_hook(
        lambda _, args, kwargs: seen.extend(tokenizer.batch_decode(args[0])), with_kwargs=True
    )
    Harness(model, tokenizer, run.folder("benchmarks") / "tasks", 0).ask("arc_easy", 1, 0, True, "tuned")
    assert all("### Instruction:" in text and text.count("<s>") <= 1 for text in seen), seen
    assert len(seen) == 3


def test_without_the_harness_it_says_how_to_get_it(
    evaluated: tuple[Config, Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    from importlib import metadata

    from pipeline.evaluation import stage

    real = metadata.version

    def missing(name: str) -> str:
        if name == "lm_eval":
            raise metadata.PackageNotFoundError(name)
        return real(name)

    config, run = evaluated
    monkeypatch.setattr(stage.metadata, "version", missing)
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    shorter = config.model_copy(update={"eval": config.eval.model_copy(update={"limit": 1})})
    with pytest.raises(UserError, match="installed") as error:
        stages.bring_up_to_date(shorter, run, "eval")
    assert "make eval" in error.value.fix


def test_lm_eval_opens_an_export_by_its_path(evaluated: tuple[Config, Run]) -> None:
    """The harness's own `hf` model, as `lm_eval run --model hf --model_args pretrained=EXPORT` makes it."""
    from lm_eval.api.instance import Instance
    from lm_eval.api.registry import get_model

    config, run = evaluated
    given = get_model("hf").create_from_arg_string(
        f"pretrained={run.folder('export')},dtype=float32", {"device": "cpu", "batch_size": 2}
    )
    encoder = RunBase.of(config, resolve(config.model)).encoder
    examples = load_examples(run, "val")
    rows, model = encoder.rows(examples), load_folder(run.folder("export"), torch.float32, "the export")
    end = encoder.tokenizer.token(encoder.end_id)
    template = encoder.template
    pairs = [(template.prompt(e.instruction, e.input), template.answer(e.output) + end) for e in examples]
    totals = [total for total, _ in given.loglikelihood(
        [Instance("loglikelihood", {}, pair, i) for i, pair in enumerate(pairs)], disable_tqdm=True)]  # fmt: skip
    assert len(totals) == 8
    for row, pair, total in zip(rows, pairs, totals, strict=True):
        context, rest = given._encode_pair(*pair)
        assert [*context, *rest] == list(row.ids)  # the training's
        # The harness counts white space at the end of a prompt with the answer: here the line break before it.
        assert len(context) == row.prompt - 1
        assert -total == pytest.approx(summed_loss(model, row.ids, len(context)), abs=1e-3)
    message = [{"role": "user", "content": examples[0].instruction}]
    chat = given.tok_encode(given.apply_chat_template(message), add_special_tokens=False)
    assert chat == encoder.prompt(examples[0].instruction)


def summed_loss(model: Any, ids: list[int], first: int) -> float:
    """-log p of the ids from place `first` on, in nats, by our own loss."""
    labels = np.array([[IGNORE] * first + ids[first:]], dtype=np.int64)
    return float(row_losses(model, PaddedBatch(np.array([ids], dtype=np.int64), labels))[0])
