"""Bases with chat templates, from conversations to a checked export, a stored adapter and a chat."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from pipeline.config.schema import Config
from pipeline.dataset.examples import read_examples
from pipeline.model.base import resolve
from pipeline.model.run_base import RunBase
from pipeline.prompt.chat_encode import ChatEncoder
from pipeline.prompt.pack import Packer
from pipeline.prompt.tokens import PART, Tokens
from pipeline.release.keep import keep
from pipeline.run.errors import UserError
from pipeline.run.folder import Run
from pipeline.serving import chat as chatting
from pipeline.serving.mixed import MixedModel
from pipeline.serving.terminal.models import ChatModel
from pipeline.serving.terminal.session import ChatSession
from pipeline.store.folder import Store
from pipeline.store.load import open_stored
from tests.helpers.chat_runs import KINDS, SYSTEM, chat_config, make_chat_base
from tests.helpers.tiny import run_to


@pytest.fixture(scope="module", params=KINDS)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Config, Run]:
    folder = tmp_path_factory.mktemp(request.param)
    config = chat_config(folder, make_chat_base(folder / "base", request.param))
    return request.param, config, run_to(config, "export", folder)


def encoder_of(config: Config) -> ChatEncoder:
    encoder = RunBase.of(config, resolve(config.model)).encoder
    assert isinstance(encoder, ChatEncoder)
    return encoder


def test_a_conversation_is_one_row_with_what_the_export_gives(exported: tuple[str, Config, Run]) -> None:
    kind, config, run = exported
    encoder, tokens = encoder_of(config), Tokens(run.folder("tokens") / "train.arrow")
    examples = {e.id: e for e in read_examples(run.folder("dataset"), "train")}
    names = tokens.names_of(range(len(tokens)))
    whole = tokens.without_parts()
    assert len(whole) == len(examples)
    assert (len(names) > len(whole)) == (kind == "qwen3")
    stock = AutoTokenizer.from_pretrained(run.folder("export"))
    for row in whole:
        conversation = encoder.conversation(examples[names[row]])
        given = stock.apply_chat_template(conversation.messages, tokenize=True, return_dict=False)
        assert tokens.row(row)[0].tolist() == list(given)
    answers = sum(len(encoder.conversation(e).answers) for e in examples.values())
    assert int((tokens.labels == encoder.end_id).sum()) == answers
    assert all(PART in names[row] for row in range(len(names)) if row not in whole)


def test_rows_share_their_system_text_and_take_the_fast_path(exported: tuple[str, Config, Run]) -> None:
    _, config, run = exported
    encoder, tokens = encoder_of(config), Tokens(run.folder("tokens") / "train.arrow")
    packer = Packer(tokens, encoder.preambles(read_examples(run.folder("dataset"), "train")), 4096)
    with_system = [e.id for e in read_examples(run.folder("dataset"), "train") if e.system == SYSTEM]
    row = tokens.names_of(range(len(tokens))).index(with_system[0])
    shared = encoder.tokenizer.decode(packer.preambles[packer.preamble_of_row[row]].tolist(), True)
    assert SYSTEM in shared
    assert (run.manifest("adapter") or {})["counts"]["path"].startswith("fast")


def test_the_export_names_no_code(exported: tuple[str, Config, Run]) -> None:
    """Though the config.json of Phi-3's base does, of which transformers has the model itself."""
    kind, config, run = exported
    named = [
        json.loads((folder / "config.json").read_text()) for folder in (Path(config.model.base), run.folder("export"))
    ]
    assert ["auto_map" in one for one in named] == [kind == "phi3", False]


def test_records_name_the_template(exported: tuple[str, Config, Run]) -> None:
    _, config, run = exported
    wanted = {"id": "base", "hash": encoder_of(config).template.hash}
    for stage in ("adapter", "export"):
        assert json.loads((run.folder(stage) / "suri.json").read_text())["template"] == wanted
    assert (run.manifest("tokens") or {})["counts"]["template"] == wanted
    text = (run.folder("export") / "chat_template.jinja").read_text()
    assert text == encoder_of(config).template.text


def typed(config: Config, run: Run, monkeypatch: pytest.MonkeyPatch, *lines: str) -> list[list[dict[str, str]]]:
    """What the model is asked when these lines are typed."""
    asked: list[list[dict[str, str]]] = []
    encode = ChatEncoder.prompt_of

    def recorded(self: ChatEncoder, messages: Any, answer: str = "", thinks: bool = False) -> list[int]:
        asked.append([dict(message) for message in messages])
        return encode(self, messages, answer, thinks)

    monkeypatch.setattr(ChatEncoder, "prompt_of", recorded)
    monkeypatch.setattr("sys.stdin", io.StringIO("".join(line + "\n" for line in lines)))
    settings = config.chat.model_copy(update={"max_new_tokens": 3})
    chatting.chat(config.model_copy(update={"chat": settings}), run)
    return asked


def test_the_chat_remembers_the_conversation(
    exported: tuple[str, Config, Run], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _, config, run = exported
    lines = ("One?", "Two?", "/system Be brief.", "Three?", "/reset", "Four?", "/input")
    asked = typed(config, run, monkeypatch, *lines)
    roles = [[message["role"] for message in messages] for messages in asked]
    assert roles == [
        ["user"], ["user", "assistant", "user"], ["system", "user"], ["system", "user"]
    ]  # fmt: skip
    assert [messages[-1]["content"] for messages in asked] == ["One?", "Two?", "Three?", "Four?"]
    said = capsys.readouterr().out
    assert said.count("[a new conversation]") == 2
    assert "[/input is for templates of single questions" in said


def test_another_template_is_refused(exported: tuple[str, Config, Run]) -> None:
    _, config, run = exported
    prompt = config.prompt.model_copy(update={"loss": "last"})
    with pytest.raises(UserError, match="was trained with the template"):
        chatting.chat(config.model_copy(update={"prompt": prompt}), run)


def test_a_stored_adapter_keeps_its_chat_template(exported: tuple[str, Config, Run], tmp_path: Path) -> None:
    _, config, run = exported
    base, store = resolve(config.model), Store(tmp_path / "store")
    keep(config, run, base, store, "talks", replace=False)
    model, encoder = open_stored(RunBase.of(config, base), store, "talks")
    assert isinstance(encoder, ChatEncoder)
    assert encoder.template == encoder_of(config).template
    mixed = MixedModel(RunBase.of(config, base), store, ["talks", "base"])
    assert mixed.encoders["talks"].prompt("Q") == encoder_of(config).prompt("Q")
    session = ChatSession(ChatModel("talks", model, encoder, None), config.chat)
    assert session.remembers


@pytest.mark.eval
def test_benchmarks_go_through_the_template_as_the_harness_does_it(
    exported: tuple[str, Config, Run], tmp_path: Path
) -> None:
    """Equal to `lm_eval run --apply_chat_template`, which puts examples into turns."""
    pytest.importorskip("lm_eval", reason="the extra `eval` is not installed (make eval)")
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager
    from transformers import AutoModelForCausalLM

    from pipeline.evaluation.harness import Harness
    from pipeline.evaluation.tasks import files_of, write_local

    _, config, run = exported
    questions = [{"query": f"What is {n}?", "choices": ["no", f"{n}", "blue"], "gold": 1} for n in range(5)]
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "arc_easy.jsonl").write_text("".join(json.dumps(q) + "\n" for q in questions))
    settings = config.eval.model_copy(update={"tasks": ("arc_easy",), "task_files": str(tmp_path / "files")})
    write_local(files_of(settings), tmp_path / "tasks")
    folder = run.folder("export")
    model = AutoModelForCausalLM.from_pretrained(folder)
    harness = Harness(model, AutoTokenizer.from_pretrained(folder), tmp_path / "tasks", 0, as_turns=True)
    ours = harness.ask("arc_easy", 0, 0, True, "tuned")["results"]["arc_easy"]
    theirs = simple_evaluate(
        "hf", model_args={"pretrained": str(folder), "dtype": "float32"}, batch_size=8, device="cpu",
        tasks=["arc_easy_local"], bootstrap_iters=10, apply_chat_template=True, fewshot_as_multiturn=True,
        task_manager=TaskManager(include_path=str(tmp_path / "tasks"), include_defaults=False),
    )["results"]["arc_easy_local"]  # fmt: skip
    for metric in ("acc", "acc_norm"):
        assert ours[metric] == theirs[f"{metric},none"]
