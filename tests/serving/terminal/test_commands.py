"""The commands of a chat, on a model whose answers are known."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.config.schema import Config
from pipeline.dataset import stage
from pipeline.prompt.chat_encode import ChatEncoder
from pipeline.run.errors import UserError
from pipeline.run.folder import Run
from pipeline.serving.terminal import commands, settings
from pipeline.serving.terminal.commands import Talk
from pipeline.serving.terminal.models import ChatModels
from pipeline.serving.terminal.session import ChatSession, Exchange
from pipeline.store.folder import Store
from tests.helpers.data_stage import config_of
from tests.helpers.tiny import load_examples

Enter = Callable[..., str]


@pytest.fixture
def talk(exported: tuple[Config, Run], store: Store) -> Talk:
    config, run = exported
    models = ChatModels(config, store, run)
    return Talk(ChatSession(models.open("export"), config.chat), models)


@pytest.fixture
def enter(talk: Talk, capsys: pytest.CaptureFixture[str]) -> Enter:
    """Enters lines; returns what is printed."""

    def entered(*lines: str) -> str:
        capsys.readouterr()
        for line in lines:
            if not commands.run(talk, line):
                talk.ask(line)
        return " ".join(capsys.readouterr().out.split())

    return entered


@pytest.fixture
def prompts(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[dict[str, Any]], bool]]:
    """What is asked: messages, and whether with thinking."""
    seen = []
    encode = ChatEncoder.prompt_of

    def recorded(self: ChatEncoder, messages: Any, answer: str = "", thinks: bool = False) -> list[int]:
        seen.append(([dict(m) for m in messages], thinks))
        return encode(self, messages, answer, thinks)

    monkeypatch.setattr(ChatEncoder, "prompt_of", recorded)
    return seen


def refused(talk: Talk, line: str) -> str:
    with pytest.raises(UserError) as caught:
        commands.run(talk, line)
    return f"{caught.value.what}; {caught.value.fix}"


def test_answers_again(talk: Talk, enter: Enter, prompts: list[Any]) -> None:
    assert "always the same" in enter("One?", "/regen")
    assert prompts[0] == prompts[1]
    assert len(talk.session.exchanges) == 1
    enter("/set temperature 5", "/set seed 1")
    answers = []
    for _ in range(3):
        enter("/regen")
        answers.append(talk.session.exchanges[0].answer)
    assert len(set(answers)) > 1
    enter("/reset", "One?", "/regen", "/regen", "/regen")  # the same seeds, from the same place
    assert talk.session.exchanges[0].answer == answers[1]


def test_a_seed_gives_the_same_answers_again(talk: Talk, enter: Enter) -> None:
    def said() -> list[str]:
        enter("/reset", "One?", "One?")
        return [past.answer for past in talk.session.exchanges]

    enter("/set temperature 9", "/set max_new_tokens 12", "/set seed 3")
    first = said()
    assert said() == first
    assert first[0] != first[1]
    enter("/set seed none")
    assert len({tuple(said()) for _ in range(3)}) > 1


def test_a_refused_answer_leaves_the_old_one(talk: Talk, enter: Enter) -> None:
    enter("One?")
    before = talk.session.exchanges[0]
    talk.session.talker = replace(talk.session.talker, model=_Broken(talk.session.talker.model))
    assert "not finite" in enter("/regen")
    assert talk.session.exchanges == [before]
    assert "not finite" in enter("Two?")
    assert talk.session.exchanges == [before]


class _Broken(torch.nn.Module):
    """A model whose logits are NaN."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.inner = model

    def __getattr__(self, name: str) -> Any:
        return super().__getattr__(name) if name == "inner" else getattr(super().__getattr__("inner"), name)

    def generate(self, *given: Any, logits_processor: Any, **more: Any) -> Any:
        logits_processor[0](torch.zeros((1, 1)), torch.full((1, 3), float("nan")))


def test_another_model_sees_the_conversation(talk: Talk, enter: Enter, prompts: list[Any]) -> None:
    said = enter("One?", "/adapter two", "Two?")
    assert "[two answers from now on; /regen asks it the last question, and /reset begins" in said
    assert [m["role"] for m in prompts[1][0]] == ["user", "assistant", "user"]
    assert talk.session.talker.name == "two"
    assert "foreign was trained on another base" in refused(talk, "/adapter foreign")
    assert "two goes on" in refused(talk, "/adapter foreign")
    assert talk.session.talker is talk.models.current
    assert talk.session.talker.name == "two"
    assert "two answers; /adapter NAME changes to one of: export, base, foreign, one, scaled, two" in enter("/adapter")
    assert "did you mean one?" in refused(talk, "/adapter onne")


def test_thinking(talk: Talk, enter: Enter, prompts: list[Any]) -> None:
    enter("/think on", "One?", "/think off", "/regen")
    assert [thinks for _, thinks in prompts] == [True, False]
    encoder = talk.session.talker.encoder
    assert isinstance(encoder, ChatEncoder)
    asked = [{"role": "user", "content": "Q"}]
    prompts_of_both = [encoder.prompt_of(asked, thinks=thinks) for thinks in (False, True)]
    with_block, without = (encoder.tokenizer.decode(ids, keep_special=True) for ids in prompts_of_both)
    assert with_block == without + "<think>\n\n</think>\n\n"
    assert "not a choice" in refused(talk, "/think perhaps")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("temprature 1", "did you mean temperature?"), ("top_p 1.5", "top_p cannot be 1.5"), ("top_k -1", "top_k"),
        ("repetition 0", "repetition cannot be 0"), ("seed -1", "seed cannot be -1"), ("temperature nan", "cannot be"),
        ("max_new_tokens 2.5", "max_new_tokens cannot be 2.5"), ("temperature", "temperature is 0"),
        ("temperature hot", "temperature cannot be hot"), ("temperature true", "cannot be true"),
    ],
)  # fmt: skip
def test_settings_that_are_refused(talk: Talk, words: str, said: str) -> None:
    before = talk.session.settings
    assert said in refused(talk, f"/set {words}")
    assert talk.session.settings == before


def test_settings(talk: Talk, enter: Enter) -> None:
    enter("/set temperature=0.5", "/set top_p 0.9", "/set top_k 7", "/set repetition 1.1", "/set max_tokens 9")
    assert enter("/set seed 4") == "[temperature 0.5, top_p 0.9, top_k 7, repetition 1.1, max_new_tokens 9, seed 4]"
    assert enter("/set") == f"[{settings.shown(talk.session.settings)}]"


def test_sampling_reaches_the_model(talk: Talk, enter: Enter, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[dict[str, Any]] = []
    model = talk.session.talker.model
    generate = model.generate
    monkeypatch.setattr(model, "generate", lambda **given: told.append(given) or generate(**given))
    enter("One?", "/set temperature 0.5", "/set top_p 0.9", "/set top_k 7", "/set repetition 1.5", "/regen")
    assert not told[0]["do_sample"]
    assert {name: told[1][name] for name in ("do_sample", "temperature", "top_p", "top_k", "repetition_penalty")} == {
        "do_sample": True, "temperature": 0.5, "top_p": 0.9, "top_k": 7, "repetition_penalty": 1.5
    }  # fmt: skip
    enter("/set top_k 1", "/set temperature 1", "/set repetition 1", "/set seed 0", "/reset", "One?")
    sampled = talk.session.exchanges[0].answer
    enter("/set temperature 0", "/regen")
    assert talk.session.exchanges[0].answer == sampled  # of one token there is nothing to choose from


def test_misspelt_commands(talk: Talk, enter: Enter, prompts: list[Any]) -> None:
    assert refused(talk, "/adpater one") == "/adpater is not a command; did you mean /adapter?"
    assert "there are /adapter, /system, /reset, /regen, /set, /think, /save, /help, /quit" in refused(talk, "/zzz")
    assert "/input is for templates of single questions" in refused(talk, "/input x")
    assert not prompts
    enter("/zzz is a question", "/etc/passwd", "/help\nin a block")
    assert [messages[-1]["content"] for messages, _ in prompts] == [
        "/zzz is a question", "/etc/passwd", "/help\nin a block"
    ]  # fmt: skip


def test_a_system_message_of_several_lines(talk: Talk, enter: Enter, prompts: list[Any]) -> None:
    enter("One?", "/system Be brief.\nAnd kind.", "Two?")
    assert prompts[-1][0] == [
        {"role": "system", "content": "Be brief.\nAnd kind."}, {"role": "user", "content": "Two?"}
    ]  # fmt: skip


def test_a_saved_conversation_is_read_by_the_data_stage(talk: Talk, enter: Enter, tmp_path: Path) -> None:
    assert "nothing to save" in refused(talk, f"/save {tmp_path / 'talk.jsonl'}")
    talk.session.system = "Be brief."
    talk.session.exchanges = [
        Exchange("질문 하나?", "", "대답 하나.", True),
        Exchange("Two?\nmore", "", "Second.", True),
    ]
    path = tmp_path / "talk.jsonl"
    assert "[2 answers saved in" in enter(f"/save {path}")
    assert "has this conversation already" in enter(f"/save {path}")
    talk.session.exchanges.append(Exchange("Three?", "", "Something else and longer, cut", False))
    assert "[3 answers added to" in (said := enter(f"/save {path}"))
    assert "1 of them did not end by themselves" in said
    run = Run(tmp_path / "run")
    stage.build(config_of(path, template="base", val=0), run)
    first, second = sorted(load_examples(run, "train"), key=lambda example: len(example.turns))
    assert first.system == second.system == "Be brief."
    assert [turn.content for turn in first.turns] == ["질문 하나?", "대답 하나.", "Two?\nmore", "Second."]
    assert second.output == "Something else and longer, cut"


def test_single_questions_are_saved_as_rows(talk: Talk, enter: Enter, tmp_path: Path) -> None:
    plain = replace(talk.session.talker, encoder=object())  # no chat template
    talk.session.talker = plain
    talk.session.exchanges = [Exchange("One?", "given", "First.", True), Exchange("Two?", "", "Second.", True)]
    path = tmp_path / "rows.jsonl"
    enter(f"/save {path}")
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"instruction": "One?", "input": "given", "output": "First."},
        {"instruction": "Two?", "input": "", "output": "Second."},
    ]
    assert "/reset is for chat templates" in refused(talk, "/reset")
    assert "/think is for chat templates" in refused(talk, "/think on")


def test_help_is_of_this_chat(talk: Talk) -> None:
    text = commands.help_text(talk.session)
    assert "/think on|off" in text
    assert "/input" not in text
    assert commands.completions(talk, "/s") == ["/system", "/set", "/save"]
    assert commands.completions(talk, "/set t") == ["temperature", "top_p", "top_k"]
    assert commands.completions(talk, "hello /s") == []
