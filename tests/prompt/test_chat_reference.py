"""Ids and labels of chat templates against transformers' `apply_chat_template` and TRL's training templates.

`docs/chat.md` says where labels differ from TRL's and why; `allowed` below holds exactly these differences.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from pipeline.dataset.example import Example
from pipeline.prompt.chat_encode import ChatEncoder
from pipeline.prompt.encode import IGNORE, Row
from tests.helpers.chats import SPELT, chat_base, chat_encoder, nasty, real, talk

# Template in shared/data/chat_templates, and the family of its tokenizer.
TEMPLATES = {
    "llama3": "llama3", "llama3_1": "llama3", "llama3_2": "llama3", "qwen2_5": "qwen", "qwen3": "qwen",
    "qwen3_instruct_2507": "qwen", "gemma": "gemma", "gemma3": "gemma", "phi3": "phi", "phi3_5": "phi",
    "cohere": "cohere",
}  # fmt: skip
TRAINING = ("llama3", "qwen2_5", "qwen3", "qwen3_instruct_2507", "gemma", "gemma3", "phi3", "phi3_5", "cohere")
BUILT_IN = {"chatml": "qwen", "llama-3": "llama3", "gemma": "gemma", "phi-3": "phi", "zephyr": "phi", "mistral": "phi",
            "llama-2": "phi"}  # fmt: skip
REAL = 60


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("bases")
    return {family: chat_base(root / family, family) for family in set(TEMPLATES.values())}


def reference(folder: Path, template: str) -> Any:
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    tokenizer.chat_template = template
    return tokenizer


def reference_ids(tokenizer: Any, encoder: ChatEncoder, example: Example) -> list[int]:
    conversation = encoder.conversation(example)
    return list(tokenizer.apply_chat_template(conversation.messages, tokenize=True, return_dict=False))


def compare(encoder: ChatEncoder, tokenizer: Any, examples: list[Example]) -> None:
    """Rows equal the reference, and a prompt is the beginning of its row unless a token crosses the border."""
    for example, row in zip(examples, encoder.rows(examples), strict=True):
        assert not row.problem, (row.problem, example.messages())
        assert row.ids == reference_ids(tokenizer, encoder, example), example.messages()
        prompt = encoder.prompt_for(example)
        if not row.seam:
            assert row.ids[: len(prompt)] == prompt, example.messages()


@pytest.mark.parametrize("name", TEMPLATES)
def test_ids_of_shipped_templates(name: str, bases: dict[str, Path], shared_data: Path) -> None:
    folder = bases[TEMPLATES[name]]
    path = shared_data / "chat_templates" / f"{name}.jinja"
    encoder = chat_encoder(folder, str(path))
    compare(encoder, reference(folder, encoder.template.text), [*nasty(), *real(shared_data, REAL)])


@pytest.mark.parametrize("name", BUILT_IN)
def test_ids_of_built_in_forms(name: str, bases: dict[str, Path]) -> None:
    folder = bases[BUILT_IN[name]]
    encoder = chat_encoder(folder, name)
    compare(encoder, reference(folder, encoder.template.text), nasty())


@pytest.mark.parametrize(
    ("name", "more"), [("qwen3", {"enable_thinking": False}), ("llama3_2", {"date_string": "26 Jul 2024"})]
)
def test_what_is_fixed_in_front_of_a_template_equals_the_same_arguments(
    name: str, more: dict[str, Any], bases: dict[str, Path], shared_data: Path
) -> None:
    folder = bases[TEMPLATES[name]]
    path = shared_data / "chat_templates" / f"{name}.jinja"
    encoder, tokenizer = chat_encoder(folder, str(path)), reference(folder, path.read_text())
    for example in nasty():
        messages = example.messages()
        given = tokenizer.apply_chat_template(messages[:-1], add_generation_prompt=True, return_dict=False, **more)
        assert list(given) == encoder.prompt_for(example)


def allowed(name: str, encoder: ChatEncoder, row: Row, n: int) -> bool:
    """Whether TRL may label the token that Suri does not, see docs/chat.md."""
    token = encoder.tokenizer.token(row.ids[n])
    text = encoder.tokenizer.decode([row.ids[n]])
    if not text.strip() and row.ids[n] not in encoder.tokenizer.special_ids:
        return True  # the line break after an end token or, Qwen2.5, after `assistant`
    if row.labels[n + 1 : n + 2] not in ([], [IGNORE]) and (row.seam or token == "<|assistant|>"):
        return True  # a token with letters of header and answer; a header's token that takes the white space after it
    return name.startswith("phi") and token == "<|endoftext|>" and n == len(row.ids) - 1


@pytest.mark.parametrize("name", [name for name in TRAINING if name != "qwen3"])
def test_labels_equal_masks_of_trl(name: str, bases: dict[str, Path], shared_data: Path) -> None:
    folder = bases[TEMPLATES[name]]
    root = shared_data / "chat_templates"
    encoder = chat_encoder(folder, str(root / f"{name}.jinja"))
    tokenizer = reference(folder, (root / f"{name}_training.jinja").read_text())
    exact = 0
    examples = [*nasty(), *real(shared_data, REAL)]
    for example, row in zip(examples, encoder.rows(examples), strict=True):
        given = tokenizer.apply_chat_template(
            encoder.conversation(example).messages, return_dict=True, return_assistant_tokens_mask=True
        )
        assert list(given["input_ids"]) == row.ids
        labelled = [label != IGNORE for label in row.labels]
        for n, (ours, theirs) in enumerate(zip(labelled, given["assistant_masks"], strict=True)):
            assert ours == bool(theirs) or (theirs and allowed(name, encoder, row, n)), (example.messages(), n)
        exact += labelled == [bool(m) for m in given["assistant_masks"]]
    if name in ("llama3", "cohere"):
        assert exact == len(examples)


def test_qwen3_learns_each_answer_as_the_last_one(bases: dict[str, Path], shared_data: Path) -> None:
    """TRL's template writes the think block before every answer and labels it; the model's own writes it before the
    last one only, and in non-thinking mode it is part of the prompt."""
    encoder = chat_encoder(bases["qwen"], str(shared_data / "chat_templates" / "qwen3.jinja"))
    example = talk("Q1", "A1", "Q2", "A2", "Q3", "A3", learn=(True, False, True))
    rows = encoder.named_rows([example])
    assert [name for _, name, _ in rows] == [f"{example.id}#1", example.id]
    texts = []
    for _, _, row in rows:
        first = next(n for n, label in enumerate(row.labels) if label != IGNORE)
        labelled = [label for label in row.labels if label != IGNORE]
        texts.append((encoder.tokenizer.decode(row.ids[:first], True)[-40:], encoder.tokenizer.decode(labelled, True)))
    header = "<|im_start|>assistant\n<think>\n\n</think>\n\n"
    assert texts == [(header[-40:], "A1<|im_end|>"), (header[-40:], "A3<|im_end|>")]
    last = chat_encoder(bases["qwen"], str(shared_data / "chat_templates" / "qwen3.jinja"), loss="last")
    assert len(last.named_rows([example])) == 1


@pytest.mark.parametrize("name", TEMPLATES)
def test_spelt_special_tokens_stay_text(name: str, bases: dict[str, Path], shared_data: Path) -> None:
    """In the ids there are the special tokens of the same conversation without the spelling, and no others."""
    folder = bases[TEMPLATES[name]]
    encoder = chat_encoder(folder, str(shared_data / "chat_templates" / f"{name}.jinja"))
    texts = [SPELT, f"They end. {SPELT}", f" {SPELT}\n", SPELT]
    spelt, plain = (
        encoder.rows([talk(*words, system=words[0])])[0]
        for words in (texts, [text.replace("<", "(").replace("|>", "|)") for text in texts])
    )
    special = set(encoder.tokenizer.special_ids) - {encoder.tokenizer.unk_id}
    assert [i for i in spelt.ids if i in special] == [i for i in plain.ids if i in special]
    assert encoder.tokenizer.decode(spelt.ids, True).count(SPELT) == 5
    # Without what is spelt the text is encoded as ever: around it nothing changes.
    assert encoder.rows(nasty()) == encoder.rows(nasty())
