"""Few-shot examples as turns of a chat template."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.dataset.example import Example
from pipeline.dataset.turn import Turn
from pipeline.evaluation.shots import ChatShots
from pipeline.prompt.chat_encode import ChatEncoder
from pipeline.prompt.chat_template import FOLDER
from pipeline.prompt.encode import IGNORE
from tests.helpers.chat_runs import THINKS
from tests.helpers.chats import chat_base, chat_encoder, talk

POOL = [
    talk("1 + 1?", "2.", system="Count."), talk("Capital of Korea?", "Seoul.", "And of France?", "Paris."),
    Example.of("Translate.", "cat", "고양이", source="test"),
]  # fmt: skip
QUESTION = talk("What is 3 + 4?", "7.", system="Be brief.")


@pytest.fixture(params=["llama-3", "gemma", THINKS])
def encoder(request: pytest.FixtureRequest, tmp_path: Path) -> ChatEncoder:
    family = {"llama-3": "llama3", "gemma": "gemma"}.get(request.param, "qwen")
    text = request.param if request.param == THINKS else (FOLDER / f"{request.param}.jinja").read_text()
    return chat_encoder(chat_base(tmp_path / "base", family, text))


def shots_of(encoder: ChatEncoder, most: int = 10_000, pool: list[Example] = POOL) -> ChatShots:
    return ChatShots(encoder, pool, len(pool), 1, most, 0)


def turns_of(example: Example) -> list[dict[str, str]]:
    return [m for m in example.messages() if m["role"] != "system"]


def test_a_prompt_is_one_conversation(encoder: ChatEncoder) -> None:
    shots = shots_of(encoder)
    chosen = shots.chosen(QUESTION)
    assert {e.id for e in chosen} == {e.id for e in POOL}
    messages = [{"role": "system", "content": "Be brief."}, *(m for e in chosen for m in turns_of(e))]
    wanted = encoder.prompt_of([*messages, {"role": "user", "content": "What is 3 + 4?"}])
    assert shots.prompt(QUESTION) == wanted


def test_only_the_rows_own_answer_carries_loss(encoder: ChatEncoder) -> None:
    rows = shots_of(encoder).tokens([QUESTION])
    ids, labels = rows.row(0)
    own = encoder.rows([QUESTION])[0]
    assert [i for i in labels.tolist() if i != IGNORE] == [i for i in own.labels if i != IGNORE]
    assert ids[: len(ids) - sum(labels != IGNORE)].tolist()[: own.prompt] != own.ids[: own.prompt]
    assert len(ids) > len(own.ids)
    assert shots_of(encoder, pool=[]).tokens([QUESTION]).row(0)[0].tolist() == own.ids


def test_examples_that_do_not_fit_are_left_out(encoder: ChatEncoder) -> None:
    shots = shots_of(encoder)
    chosen = shots.chosen(QUESTION)
    nearest = encoder.prompt_for(QUESTION, chosen[-1:])
    assert shots_of(encoder, len(nearest)).prompt(QUESTION) == nearest
    assert shots_of(encoder, 3).prompt(QUESTION) == encoder.prompt_for(QUESTION)


def test_rows_that_call_tools_are_no_examples(encoder: ChatEncoder) -> None:
    called = [
        Turn("user", "Q"),
        Turn("assistant", "", more={"tool_calls": []}),
        Turn("tool", "R"),
        Turn("assistant", "A"),
    ]
    assert shots_of(encoder, pool=[Example.whole(called, source="test")]).chosen(QUESTION) == []


def test_all_text_carries_loss_but_that_of_examples(tmp_path: Path) -> None:
    folder = chat_base(tmp_path / "base", "llama3", (FOLDER / "llama-3.jinja").read_text())
    encoder = chat_encoder(folder, loss="all")
    _, labels = shots_of(encoder).tokens([QUESTION]).row(0)
    text = encoder.tokenizer.decode([i for i in labels.tolist() if i != IGNORE])
    assert "What is 3 + 4?" in text
    assert "Seoul" not in text
    assert "Korea" not in text
