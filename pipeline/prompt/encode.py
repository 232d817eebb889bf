"""Encodes examples as ids and labels. Training, evaluation and chat use the same code.

    ids    = [BOS] + prompt + answer + [END], cut at the cutoff
    labels = ids, with IGNORE over the prompt if the recipe masks it

join: joint   prompt and answer are tokenised as one text, and as many tokens are masked as the prompt alone has. If the
              answer changes the prompt's last token, the mask is off by that token. So did stanford_alpaca (train.py
              `preprocess`) and alpaca-lora (finetune.py `generate_and_tokenize_prompt`).
join: apart   prompt and answer are tokenised separately and their ids joined.

A conversation longer than the cutoff loses its oldest turns, as few as possible; it is cut only if it is too long
without any earlier turn. Other rows that are too long are cut.

`prompt.strip_end` removes white space in front of the end token. The slow tokenizers of transformers v4.28.1 did so
(tokenization_utils.py, `tokenize`) in scripts that appended the end token as text and had added it as a word instead of
an `AddedToken`. Those tokenizers also turned "</s>" inside a row into the token; here it stays text.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from pipeline.config.schema import Prompt
from pipeline.dataset.example import Example
from pipeline.prompt.template import Template
from pipeline.prompt.tokenizer import Tokenizer
from pipeline.run.errors import UserError

IGNORE = -100  # the label that torch's cross-entropy skips
# Beginnings of an instruction: a tokenizer may join the last letters of the template with any of them.
FOLLOWING = ("", "1", " ", "\n", "A", '"', "(", "가", "é", "日", "\u200b", "🙂", "-", "#", ":")
MIN_PREAMBLE = 4  # ids
USER_TURN = re.compile(r"\nUser: ")
FIRST_TURNS = ("User: ", "Assistant: ")


@dataclass(frozen=True, slots=True)
class Row:
    """One encoded example.

    ids, labels: equally long. prompt: how many ids at the front are the prompt, BOS included. cut: it was longer than
    the cutoff and has no end token. seam: joining the answer changed the prompt's tokens. lost_turns: its oldest turns
    were left out so that it fits into the cutoff; of a chat template, its last ones. problem: why it has no ids.
    left_out: answers of its conversation that are in no row, since each is too long (`prompt.too_long=split`).
    """

    ids: list[int]
    labels: list[int]
    prompt: int
    cut: bool
    seam: bool
    lost_turns: bool = False
    problem: str = ""
    left_out: int = 0

    @property
    def labelled(self) -> int:
        """Number of labelled tokens; the first id does not count, since nothing predicts it."""
        later = self.labels[1:]
        return len(later) - later.count(IGNORE)


class Encoder:
    """Encodes with one template, one tokenizer and the settings of `prompt`.

    Raises:
        UserError: the tokenizer has no end token, or `prompt.bos` is not in its vocabulary.
    """

    is_chat = False  # whether conversations are encoded as such

    def __init__(self, template: Template, tokenizer: Tokenizer, prompt: Prompt) -> None:
        self.template, self.tokenizer, self.prompt_config = template, tokenizer, prompt
        self.notes: list[str] = []
        self.end_id = self._end()
        self.bos_id = self._bos()

    def _end(self) -> int:
        name = self.template.end
        if name != "eos":
            id = self.tokenizer.token_id(name)
            if id is not None and id in self.tokenizer.special_ids:
                return id
            self.notes.append(f"the template ends with {name}, which this tokenizer lacks: its own end token is used")
        if self.tokenizer.eos_id is None:
            raise UserError(
                "the tokenizer has no end token, so the model could never learn to stop",
                str(self.tokenizer.folder),
                "add eos_token to its tokenizer_config.json",
            )
        return self.tokenizer.eos_id

    def _bos(self) -> int | None:
        rule = self.prompt_config.bos
        if rule == "none":
            return None
        if rule == "auto":
            return self.tokenizer.bos_id if self.tokenizer.adds_bos else None
        id = self.tokenizer.token_id(rule)
        if id is None:
            raise UserError(f"{rule!r} is not in the vocabulary", "prompt.bos", "auto, none, or a token such as <s>")
        return id

    def prompt(self, instruction: str, input: str = "", answer: str = "") -> list[int]:
        """Ids of a prompt, for generation. answer: its beginning, for a model that goes on with it."""
        text = self.template.prompt(instruction, input)
        begun = self.template.answer(answer) if answer else ""
        if begun and self.prompt_config.join == "apart":
            return self._bos_ids() + self.tokenizer.encode([text])[0] + self.tokenizer.encode_after([begun])[0]
        return self._bos_ids() + self.tokenizer.encode([text + begun])[0]

    def prompt_for(self, example: Example) -> list[int]:
        """Ids of an example's prompt, for generation."""
        return self.prompt(example.instruction, example.input)

    def named_rows(self, examples: Sequence[Example]) -> list[tuple[Example, str, Row]]:
        """Each example with the row that training has of it, and the row's name."""
        return [(e, e.id, row) for e, row in zip(examples, self.rows(examples), strict=True)]

    def rows(self, examples: Sequence[Example]) -> list[Row]:
        """Encodes examples in their order; conversations that are too long lose their oldest turns."""
        rows = self._encode(examples)
        shorter = {i: _with_fewer_turns(examples[i]) for i, row in enumerate(rows) if row.cut}
        # Bisection: the longest version that fits, or the last one.
        bounds = {i: (0, len(versions) - 1) for i, versions in shorter.items() if versions}
        while open_ := {i: (low, high) for i, (low, high) in bounds.items() if low < high}:
            tried = self._encode([shorter[i][(low + high) // 2] for i, (low, high) in open_.items()])
            for (i, (low, high)), row in zip(open_.items(), tried, strict=True):
                middle = (low + high) // 2
                bounds[i] = (middle + 1, high) if row.cut else (low, middle)
        fitting = self._encode([shorter[i][low] for i, (low, _) in bounds.items()])
        for i, row in zip(bounds, fitting, strict=True):
            rows[i] = replace(row, lost_turns=True)
        return rows

    def _encode(self, examples: Sequence[Example]) -> list[Row]:
        if not examples:
            return []
        prompts = [self.template.prompt(e.instruction, e.input) for e in examples]
        answers = [self.template.answer(e.output) for e in examples]
        heads = self.tokenizer.encode(prompts)
        if self.prompt_config.join == "joint":
            bodies = self.tokenizer.encode([self._ended(p + a) for p, a in zip(prompts, answers, strict=True)])
        else:
            tails = self.tokenizer.encode_after([self._ended(a) for a in answers])
            bodies = [head + tail for head, tail in zip(heads, tails, strict=True)]
        return [self._row(head, body) for head, body in zip(heads, bodies, strict=True)]

    def _ended(self, text: str) -> str:
        """The text in front of the end token, see `prompt.strip_end`."""
        return text.rstrip() if self.prompt_config.strip_end else text

    def _row(self, head: list[int], body: list[int]) -> Row:
        cutoff = self.prompt_config.cutoff
        bos = self._bos_ids()
        whole = [*bos, *body, self.end_id]
        ids = whole[:cutoff]
        prompt = min(len(bos) + len(head), len(ids))
        masked = prompt if self.prompt_config.mask_prompt else 0
        labels = [IGNORE] * masked + ids[masked:]
        return Row(ids, labels, prompt, cut=len(whole) > cutoff, seam=body[: len(head)] != head)

    def _bos_ids(self) -> list[int]:
        return [] if self.bos_id is None else [self.bos_id]

    def preambles(self, examples: Iterable[Example] = ()) -> list[list[int]]:
        """Ids that rows begin with, whatever their content: the template's text before its first slot, with and without
        input. For each form of the template, the common prefix of the prompts with all of `FOLLOWING`.

        Args:
            examples: not used; the texts of chat templates are partly in the rows.
        """
        preambles = []
        for input in ("", "x"):
            prompts = [self.template.prompt(f"{text}x", input and f"{text}x") for text in FOLLOWING]
            encoded = self.tokenizer.encode(prompts)
            common = [same[0] for same in itertools.takewhile(lambda i: len(set(i)) == 1, zip(*encoded, strict=False))]
            if len(common) >= MIN_PREAMBLE:
                preambles.append(self._bos_ids() + common)
        return [ids for n, ids in enumerate(preambles) if ids not in preambles[:n]]

    def seams(self, examples: Sequence[Example]) -> int:
        """How many examples change their prompt's tokens when prompt and answer are tokenised as one text."""
        prompts = [self.template.prompt(e.instruction, e.input) for e in examples]
        heads = self.tokenizer.encode(prompts)
        joined = self.tokenizer.encode(
            [self._ended(p + self.template.answer(e.output)) for p, e in zip(prompts, examples, strict=True)]
        )
        return sum(body[: len(head)] != head for head, body in zip(heads, joined, strict=True))


def _with_fewer_turns(example: Example) -> list[Example]:
    """The example without its oldest turns, version by version, the last one without any; empty if it has no earlier
    turns. `pipeline.dataset.read.conversation` writes them into the input:

        User: a                              User: c                    (empty)
        Assistant: b         ->    [         Assistant: d    ,                     ]
        User: c
        Assistant: d
    """
    if not example.thread or not example.input.startswith(FIRST_TURNS):
        return []
    rest = [example.input[match.start() + 1 :] for match in USER_TURN.finditer(example.input)]
    return [replace(example, input=text) for text in (*rest, "")]
