"""Conversations as ids and labels: what carries loss, what is cut, what is rejected."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.dataset.example import Example
from pipeline.dataset.turn import Turn
from pipeline.model import hf_tokenizer
from pipeline.prompt.chat_encode import ChatEncoder
from pipeline.prompt.encode import IGNORE, Row
from pipeline.prompt.tokenizer_checks import check_rows, check_tokenizer
from pipeline.run.errors import UserError
from tests.helpers.chat_runs import THINKS
from tests.helpers.chats import chat_base, chat_encoder, nasty, talk

CHATML = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
OPEN = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
# Gemma's first template: no system message, and the user begins.
STRICT = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}"
    "{{ '<|im_start|>' + m.role + '\n' + m.content | trim + '<|im_end|>\n' }}{% endfor %}" + OPEN
)
THREE = talk("Q1", "A1", "Q2", "A2", "Q3", "A3", learn=(True, False, True))


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return chat_base(tmp_path_factory.mktemp("qwen"), "qwen", CHATML + OPEN)


def base_with(folder: Path, template: Any) -> Path:
    return chat_base(folder, "qwen", template)


def learnt(encoder: ChatEncoder, row: Row) -> list[str]:
    """The texts that carry loss."""
    texts, open_ = [], False
    for id, label in zip(row.ids, row.labels, strict=True):
        if label != IGNORE:
            piece = encoder.tokenizer.decode([id], keep_special=True)
            texts[-1:] = [texts[-1] + piece] if open_ else [*texts[-1:], piece]
        open_ = label != IGNORE
    return texts


@pytest.mark.parametrize(
    ("loss", "texts"),
    [
        ("answers", ["A1<|im_end|>", "A3<|im_end|>"]),
        ("last", ["A3<|im_end|>"]),
        (
            "all",
            ["<|im_start|>user\nQ1<|im_end|>\n<|im_start|>assistant\nA1<|im_end|>\n<|im_start|>user\nQ2<|im_end|>\n"
             "<|im_start|>assistant\n", "\n<|im_start|>user\nQ3<|im_end|>\n<|im_start|>assistant\nA3<|im_end|>\n"],
        ),
    ],
)  # fmt: skip
def test_what_carries_loss(qwen: Path, loss: str, texts: list[str]) -> None:
    encoder = chat_encoder(qwen, loss=loss)
    row = encoder.rows([THREE])[0]
    assert learnt(encoder, row) == texts
    assert [label for label in row.labels if label != IGNORE] == [
        id for id, label in zip(row.ids, row.labels, strict=True) if label != IGNORE
    ]
    check_rows(encoder, [row])


def test_a_plain_row_is_a_conversation_of_two_turns(qwen: Path) -> None:
    encoder = chat_encoder(qwen)
    plain = Example.of("Translate.", "Hello", "안녕", source="s")
    assert encoder.rows([plain])[0] == encoder.rows([talk("Translate.\n\nHello", "안녕")])[0]
    assert encoder.prompt("Translate.", "Hello") == encoder.prompt_for(plain)


def test_a_conversation_that_is_too_long_loses_its_last_turns(qwen: Path) -> None:
    whole = chat_encoder(qwen).rows([THREE])[0]
    for cutoff in range(4, len(whole.ids) + 1):
        encoder = chat_encoder(qwen, cutoff=cutoff)
        row = encoder.rows([THREE])[0]
        shorter = [chat_encoder(qwen).rows([talk(*[t.content for t in THREE.turns[:n]])])[0].ids for n in (2, 4, 6)]
        fitting = [ids for ids in shorter if len(ids) <= cutoff]
        if fitting:
            assert row.ids == fitting[-1]
            assert row.lost_turns == (fitting[-1] != shorter[-1])
            assert not row.cut
            check_rows(encoder, [row])
        else:
            assert row.ids == whole.ids[:cutoff]
            assert row.cut
        rejecting = chat_encoder(qwen, cutoff=cutoff, too_long="reject").rows([THREE])[0]
        assert rejecting.cut == (cutoff < len(whole.ids))


@pytest.mark.parametrize("template", [CHATML + OPEN, THINKS])
def test_a_long_conversation_is_split_with_history(tmp_path: Path, template: str) -> None:
    """Each answer is learnt once, in a row that fits, after the turns before it."""
    folder = base_with(tmp_path, template)
    texts = [f"{'QA'[i % 2]}{i // 2} {'word ' * (3 + i % 5)}" for i in range(24)]
    example = talk(*texts, system="S", learn=(True, False) + (True,) * 10)
    for cutoff in (80, 90, 150, 4000):
        encoder = chat_encoder(folder, cutoff=cutoff, too_long="split")
        named = encoder.named_rows([example, talk("Q", "A")])
        assert named[-1][1] == named[-1][0].id
        rows = [row for _, _, row in named[:-1]]
        assert all(len(row.ids) <= cutoff and not row.cut for row in rows)
        answers = [answer for row in rows for answer in learnt(encoder, row)]
        assert answers == [f"{texts[i]}<|im_end|>" for i in range(1, 24, 2) if i != 3]
        assert all("S<|im_end|>" in encoder.tokenizer.decode(row.ids, True)[:40] for row in rows)
        assert [name for _, name, _ in named[:-1]] == [*(f"{example.id}#{n}" for n in range(1, len(rows))), example.id]
        last = chat_encoder(folder, cutoff=cutoff, too_long="split", loss="last").named_rows([example])
        assert [learnt(encoder, row) for _, _, row in last] == [[f"{texts[-1]}<|im_end|>"]]
    tiny = chat_encoder(folder, cutoff=8, too_long="split").named_rows([example])
    assert [(name, row.cut) for _, name, row in tiny] == [(example.id, True)]


def test_a_question_at_the_end_is_the_first_to_go(qwen: Path) -> None:
    answered, asked = talk("Q1", "A1"), talk("Q1", "A1", "Q2 is a long question")
    room = len(chat_encoder(qwen).rows([answered])[0].ids)
    row = chat_encoder(qwen, cutoff=room).rows([asked])[0]
    assert row.ids == chat_encoder(qwen).rows([answered])[0].ids
    assert row.lost_turns


def test_a_template_without_system_messages_has_the_text_in_the_first_question(tmp_path: Path) -> None:
    encoder = chat_encoder(base_with(tmp_path, STRICT))
    assert encoder.form.folds_system
    assert any("no system message" in note for note in check_tokenizer(encoder, None, ()))
    with_system, folded = talk("Q", "A", system="Be brief."), talk("Be brief.\n\nQ", "A")
    assert encoder.rows([with_system])[0] == encoder.rows([folded])[0]
    asked = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Q"}]
    assert encoder.prompt_of(asked) == encoder.prompt_for(folded)


def test_a_refused_conversation_names_the_turn_and_the_rule(tmp_path: Path) -> None:
    encoder = chat_encoder(base_with(tmp_path, STRICT))
    turns = [
        Turn("user", "Q"),
        Turn("assistant", "A"),
        Turn("assistant", "B"),
        Turn("user", "R"),
        Turn("assistant", "C"),
    ]
    good, bad = talk("Q", "A"), Example.whole(turns, source="s")
    rows = encoder.rows([good, bad, good])
    assert rows[1].problem == "turn 3 (assistant): roles must alternate"
    assert rows[1].ids == []
    assert rows[0] == rows[2]
    with pytest.raises(UserError, match=r"refuses this conversation: turn 1 .assistant.: roles must"):
        encoder.prompt_of([{"role": "assistant", "content": "x"}, {"role": "user", "content": "y"}])


def test_a_text_that_the_template_changes_is_placed_by_its_header(tmp_path: Path) -> None:
    shouting = CHATML.replace("m.content", "(m.content | upper if m.content == 'answer' else m.content)") + OPEN
    encoder = chat_encoder(base_with(tmp_path, shouting))
    assert learnt(encoder, encoder.rows([talk("Q", "answer")])[0]) == ["ANSWER<|im_end|>"]
    counting = CHATML.replace("m.content", "(m.content | length) | string") + OPEN
    with pytest.raises(UserError, match="leaves out the text of a question"):
        chat_encoder(base_with(tmp_path, counting))


def test_what_a_changed_text_spells_is_not_guessed(tmp_path: Path) -> None:
    doubling = CHATML.replace("m.content", "(m.content + m.content if '!' in m.content else m.content)") + OPEN
    encoder = chat_encoder(base_with(tmp_path, doubling))
    rows = encoder.rows([talk("Q! <|im_end|>", "A"), talk("<|im_end|>", "\U00100000 A"), talk("<|im_end|>", "A")])
    assert [row.problem for row in rows] == [
        "turn 1: it spells a special token, and the template changes its text",
        "it spells special tokens, and has characters of the private use plane 16", "",
    ]  # fmt: skip


def test_a_template_that_looks_into_texts_is_met_by_search(tmp_path: Path) -> None:
    looking = (
        CHATML.replace("m.content", "(m.content if m.content.startswith('Q') or m.role != 'user' else '?')") + OPEN
    )
    encoder = chat_encoder(base_with(tmp_path, looking.replace("'?'", "m.content + '!'")))
    row = encoder.rows([talk("Q is user", "user", "Q", "the end")])[0]
    assert learnt(encoder, row) == ["user<|im_end|>", "the end<|im_end|>"]


@pytest.mark.parametrize(
    ("template", "what"),
    [
        ("{% for m in messages %}{{ m.content }} {% endfor %}", "ends an answer with no special token"),
        ("{% for m in messages %}{{ '[' + m.content + ']END' }}{% endfor %}", "after the answer comes ']END'"),
        ("{{ raise_exception('never') }}", "refuses a question with its answer: never"),
        ("{% for m in messages %}", "does not compile: .*line 1"),
        ("{{ ''.__class__.__mro__ }}", "the sandbox forbids what it does"),
        ("{% import 'os' as os %}", "imports or includes another file"),
        ("{% for i in range(10**9) %}{% endfor %}", "Range too big"),
        ("{% for i in range(99999) %}{% for k in range(99999) %}{% endfor %}{% endfor %}", "more than a second"),
        ("{{ 'x' * 20000000 }}", "more than 10 MB"),
        ("{{ 'x' * 4000000000 }}", "more than 1 GB"),
        (
            [{"name": "rag", "template": "x"}, {"name": "tool_use", "template": "y"}],
            "several chat templates .rag, tool_use",
        ),
        (None, "this base has no chat template"),
        ("", "this base has no chat template"),
    ],
)
def test_unfit_templates_are_one_message(tmp_path: Path, template: Any, what: str) -> None:
    with pytest.raises(UserError, match=what) as caught:
        chat_encoder(base_with(tmp_path, template))
    assert caught.value.where
    assert caught.value.fix
    # The process that renders is there again for the next one.
    assert chat_encoder(base_with(tmp_path / "next", CHATML + OPEN)).rows([talk("a", "b")])[0].ids


def test_a_form_whose_marks_are_no_tokens_says_how_to_make_them(tmp_path: Path) -> None:
    folder = chat_base(tmp_path, "llama3")
    with pytest.raises(UserError, match=r"after the answer comes '<\|im_end\|>'") as caught:
        chat_encoder(folder, "chatml")
    assert 'model.add_tokens: ["<|im_start|>", "<|im_end|>"]' in caught.value.fix
    encoder = chat_encoder(folder, "chatml", ("<|im_start|>", "<|im_end|>"))
    assert learnt(encoder, encoder.rows([talk("Q <|im_end|>", "A <|im_end|>")])[0]) == ["A <|im_end|><|im_end|>"]


def test_a_base_with_several_templates_has_a_default(tmp_path: Path) -> None:
    several = [{"name": "rag", "template": "x"}, {"name": "default", "template": CHATML + OPEN}]
    assert chat_encoder(base_with(tmp_path, several)).template.text == CHATML + OPEN
    (tmp_path / "chat_template.jinja").write_text(STRICT)
    assert chat_encoder(tmp_path).template.text == STRICT


def test_today_is_the_day_that_the_config_names(tmp_path: Path) -> None:
    dated = "{{ '<|im_start|>' + strftime_now('%d %b %Y') + '<|im_end|>' }}" + CHATML + OPEN
    encoder = chat_encoder(base_with(tmp_path, dated))
    assert encoder.tokenizer.decode(encoder.prompt("Q"), True).startswith("<|im_start|>26 Jul 2024<|im_end|>")
    other = chat_encoder(tmp_path, date="2026-01-31")
    assert other.tokenizer.decode(other.prompt("Q"), True).startswith("<|im_start|>31 Jan 2026<|im_end|>")
    assert other.template.hash != encoder.template.hash
    # The export has the date; read from there, the template is the same.
    tokenizer = hf_tokenizer.build(encoder, None)
    hf_tokenizer.save(tokenizer, encoder, tmp_path / "export")
    again = chat_encoder(tmp_path / "export")
    assert again.template.hash == encoder.template.hash
    assert hf_tokenizer.disagreement(hf_tokenizer.load(tmp_path / "export"), encoder, nasty()) == ("", len(nasty()))


def test_the_template_hash_holds_what_is_learnt(qwen: Path) -> None:
    hashes = {chat_encoder(qwen, loss=loss).template.hash for loss in ("answers", "last", "all")}
    assert len(hashes) == 3
    assert chat_encoder(qwen, cutoff=77).template.hash in hashes


def test_preambles_hold_the_system_text_that_rows_share(qwen: Path) -> None:
    encoder = chat_encoder(qwen)
    rows = [talk(str(n), "x", system="You are a guide.") for n in range(3)] + [talk("Q", "A", system="Once.")]
    shared = encoder.preambles(rows)
    assert [encoder.tokenizer.decode(ids, True) for ids in shared] == [
        "<|im_start|>system\nYou are a guide.<|im_end|>\n<|im_start|>user"
    ]
    for text in ("Q", "\n\nQ", " ", "한국어"):  # whatever the question begins with
        assert encoder.rows([talk(text, "A", system="You are a guide.")])[0].ids[: len(shared[0])] == shared[0]


def test_an_answer_that_begins_with_a_line_break_is_a_seam(qwen: Path) -> None:
    encoder = chat_encoder(qwen)
    assert [row.seam for row in encoder.rows([talk("Q", "\n\nA"), talk("Q", "A"), talk("Q", " A")])] == [
        True,
        False,
        False,
    ]
    assert encoder.seams([talk("Q", "\n\nA"), talk("Q", "A")]) == 1


def test_reasoning_in_the_data_is_learnt_with_the_last_answer(qwen: Path, shared_data: Path) -> None:
    """Qwen3 takes the reasoning out of the text and leaves it out of earlier answers."""
    encoder = chat_encoder(qwen, str(shared_data / "chat_templates" / "qwen3.jinja"))
    first, second = (f"<think>\nbecause {n}\n</think>\n\nA{n}" for n in (1, 2))
    rows = [row for _, _, row in encoder.named_rows([talk("Q1", first, "Q2", second)])]
    assert [learnt(encoder, row) for row in rows] == [[f"{first}<|im_end|>"], [f"{second}<|im_end|>"]]
    assert "because 1" not in encoder.tokenizer.decode(rows[1].ids)


CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Seoul <|im_end|>"}}}
TOOL = {"type": "function", "function": {"name": "weather", "description": "d", "parameters": {"type": "object"}}}


def weather(*, call: Any = CALL) -> Example:
    turns = [
        Turn("user", "How is it?"), Turn("assistant", "", more={"tool_calls": [call]}),
        Turn("tool", "Rain <|im_end|> today", more={"name": "weather"}), Turn("assistant", "It rains."),
    ]  # fmt: skip
    return Example.whole(turns, source="s", tools=[TOOL])


@pytest.mark.parametrize("name", ["qwen2_5", "qwen3_instruct_2507"])
@pytest.mark.parametrize("loss", ["answers", "all"])
def test_calls_are_learnt_and_results_never(qwen: Path, shared_data: Path, name: str, loss: str) -> None:
    encoder = chat_encoder(qwen, str(shared_data / "chat_templates" / f"{name}.jinja"), loss=loss)
    row = encoder.rows([weather()])[0]
    assert not row.problem
    texts = learnt(encoder, row)
    assert not any("Rain" in text or "today" in text for text in texts)
    call = '<tool_call>\n{"name": "weather", "arguments": {"city": "Seoul <|im_end|>"}}\n</tool_call><|im_end|>'
    if loss == "answers":
        assert [text.strip() for text in texts] == [call, "It rains.<|im_end|>"]
    end = encoder.tokenizer.token_id("<|im_end|>")
    assert row.ids.count(end) == 5  # system, user, call, result, answer: what is spelt is text


def test_a_template_that_knows_no_tools_rejects_calls(qwen: Path) -> None:
    row = chat_encoder(qwen).rows([weather()])[0]
    assert row.problem == "the template does not write the tool 'weather'"
    turns = weather().turns
    row = chat_encoder(qwen).rows([Example.whole(turns, source="s")])[0]
    assert row.problem == "turn 2: the template does not write the call of the tool 'weather'"


def test_answers_that_fit_into_no_row_are_counted(tmp_path: Path) -> None:
    folder = base_with(tmp_path, CHATML + OPEN)
    long = "word " * 200
    example = talk("Q1", "A1", "Q2", long, "Q3", "A3", "Q4", long, learn=(True, True, True, False))
    encoder = chat_encoder(folder, cutoff=60, too_long="split")
    rows = [row for _, _, row in encoder.named_rows([example])]
    assert [answer for row in rows for answer in learnt(encoder, row)] == ["A1<|im_end|>", "A3<|im_end|>"]
    assert sum(row.left_out for row in rows) == 1  # the other long one carries no loss
    assert sum(row.left_out for _, _, row in encoder.named_rows([talk("Q1", long, "Q2", long)])) == 2
    assert sum(row.left_out for _, _, row in encoder.named_rows([talk("Q1", "A1", "Q2", "A2")])) == 0
