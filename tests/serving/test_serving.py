"""Chat in the terminal, with scripted input."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from pipeline.config.schema import Config
from pipeline.prompt.encode import Encoder
from pipeline.prompt.stage import encoder_of
from pipeline.run.errors import UserError
from pipeline.run.folder import Run
from pipeline.run.terminal import safe
from pipeline.serving import chat as chatting
from tests.helpers.tiny import make_config, run_to


@pytest.fixture(scope="module")
def exported(base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, Run]:
    """A run with a new token, so that its tokenizer is not the base's."""
    folder = tmp_path_factory.mktemp("exported")
    config = make_config(folder, base, "eval.rows=1", "eval.prompts=[]", 'model.add_tokens=["[PAD]"]')
    return config, run_to(config, "export", folder)


Talk = Callable[..., str]


@pytest.fixture
def talk(exported: tuple[Config, Run], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Talk:
    """Types lines, then Ctrl-D; returns what was printed since the first question was read."""
    read = chatting.read_entries

    def read_entries(talk: chatting.Talk) -> None:
        capsys.readouterr()
        read(talk)

    monkeypatch.setattr(chatting, "read_entries", read_entries)

    def typed(*lines: str, most: int = 5, temperature: float = 0.0) -> str:
        config, run = exported
        settings = config.chat.model_copy(update={"max_new_tokens": most, "temperature": temperature})
        monkeypatch.setattr("sys.stdin", io.StringIO("".join(line + "\n" for line in lines)))
        chatting.chat(config.model_copy(update={"chat": settings}), run)
        return capsys.readouterr().out

    return typed


def expected(exported: tuple[Config, Run], base: Path, question: str, given: str = "", most: int = 5) -> str:
    """The answer, decoded without chat's own code."""
    config, run = exported
    encoder = encoder_of(config.prompt, base, config.model.add_tokens)
    model = AutoModelForCausalLM.from_pretrained(run.folder("export"))
    ids = encoder.prompt(question, given)
    with torch.inference_mode():
        made = model.generate(torch.tensor([ids]), max_new_tokens=most, do_sample=False)[0, len(ids) :].tolist()
    return safe(encoder.tokenizer.decode(made))


def test_an_answer_is_what_the_trained_form_gives(talk: Talk, exported: tuple[Config, Run], base: Path) -> None:
    said = talk("Name a colour.")
    assert expected(exported, base, "Name a colour.") in said
    assert "[cut off after 5 tokens; " in said


def test_input_goes_to_one_question(
    talk: Talk, exported: tuple[Config, Run], base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str]] = []
    monkeypatch.setattr(
        chatting.ChatSession, "answer", lambda self, question, given: asked.append((question, given)) or ""
    )
    said = talk("/input The sky is blue.", "Which colour?", "And now?", "/input x", "/input", "Last?", "", "/inputs")
    assert asked == [("Which colour?", "The sky is blue."), ("And now?", ""), ("Last?", "")]
    assert "[16 characters for the next question]" in said
    assert "[no input]" in said
    assert "/inputs is not a command; did you mean /input?" in said


def test_help_and_quit(talk: Talk, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> str:
        raise AssertionError("asked after /quit")

    monkeypatch.setattr(chatting.ChatSession, "answer", never)
    said = talk("/help", "/quit", "Are you there?")
    assert "/input TEXT" in said
    assert talk() == "\n"  # Ctrl-D at once


def test_special_tokens_in_a_question_are_text(
    talk: Talk, exported: tuple[Config, Run], base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    question = "What is </s> or [PAD] or {input}?"
    wanted = encoder_of(exported[0].prompt, base, exported[0].model.add_tokens).prompt(question)
    seen: list[list[int]] = []
    encode = Encoder.prompt

    def recorded(self: Encoder, question: str, given: str = "") -> list[int]:
        seen.append(encode(self, question, given))
        return seen[-1]

    monkeypatch.setattr(Encoder, "prompt", recorded)
    talk(question)
    assert seen == [wanted]
    assert not {2, 400} & set(wanted)


def test_a_question_that_is_too_long(talk: Talk) -> None:
    said = talk("word " * 600, "Name a colour.", most=2)
    assert "are too long for this model: it sees 512, its answer included" in said
    assert "[cut off after 2 tokens" in said  # the chat goes on


def test_sampling_follows_the_temperature(talk: Talk) -> None:
    torch.manual_seed(0)
    assert len({talk("Name a colour.", temperature=50.0) for _ in range(4)}) > 1
    assert len({talk("Name a colour.") for _ in range(2)}) == 1


def test_ctrl_c_stops_the_answer_and_not_the_chat(talk: Talk, monkeypatch: pytest.MonkeyPatch) -> None:
    generate, calls = torch.nn.Module.__call__, iter([True, False])

    def interrupted(*given: object, **more: object) -> object:
        if next(calls, False):
            raise KeyboardInterrupt
        return generate(*given, **more)

    monkeypatch.setattr(torch.nn.Module, "__call__", interrupted)
    said = talk("Name a colour.", "Name a colour.")
    assert "[stopped]" in said
    assert "[cut off after 5 tokens" in said


def test_other_template(exported: tuple[Config, Run], base: Path, tmp_path: Path) -> None:
    made = json.loads((exported[1].folder("export") / "suri.json").read_text())["template"]["hash"]
    with pytest.raises(UserError, match=made) as caught:
        chatting.chat(make_config(tmp_path, base, "prompt.template=alpaca"), exported[1])
    assert "put the template back" in caught.value.fix


def test_nothing_exported(base: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="exported") as caught:
        chatting.chat(make_config(tmp_path, base), Run(tmp_path / "none"))
    assert caught.value.fix == "`make export`"
