"""Examples to ids and labels. Training, evaluation and chat all come through here.

    ids    = [BOS] + prompt + answer + [END], cut at the cutoff
    labels = ids, with IGNORE over the prompt where the recipe masks it

Joint recipes tokenise prompt and answer as one text and mask as many tokens as the prompt has when tokenised alone,
as stanford_alpaca and alpaca-lora did (stanford_alpaca train.py `preprocess`, alpaca-lora finetune.py
`generate_and_tokenize_prompt`): where the answer changes the prompt's last token, the mask is off by that token.
Recipes with `join: apart` join ids, so the seam is always clean.

A row of a conversation that is longer than the cutoff loses its oldest turns first, as many as it takes; only what is
still too long without any is cut. Rows without earlier turns are never changed.

Scripts that put the end token behind the answer as text got it back as the token, and where they had added it to the
tokenizer as a word and not as an `AddedToken`, the slow tokenizer stripped the white space in front of it (transformers
v4.28.1, tokenization_utils.py, `tokenize`): `prompt.strip_end`. What those tokenizers did besides is not done here: a
special token spelt inside a row, "</s>", became the token there, and stays text here.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

from pipeline.config.schema import Prompt
from pipeline.dataset.example import Example
from pipeline.prompt.history import shortened
from pipeline.prompt.template import Template
from pipeline.prompt.tokenizer import Tokenizer
from pipeline.run.errors import UserError

IGNORE = -100  # the label that torch's cross-entropy skips
FOLLOWING = ("", "1", " ", "\n", "A", '"', "(", "가", "é", "日", "\u200b", "🙂", "-", "#", ":")  # of many kinds of sign
SHORTEST = 4  # ids in a run that is worth sharing


@dataclass(frozen=True, slots=True)
class Row:
    """One encoded example.

    ids, labels: equally long. prompt: how many leading ids are prompt (BOS included). cut: it was longer than the
    cutoff and lost its end token. seam: joining the answer changed the prompt's tokens. forgot: it lost its oldest
    turns to fit into the cutoff.
    """

    ids: list[int]
    labels: list[int]
    prompt: int
    cut: bool
    seam: bool
    forgot: bool = False

    @property
    def learnt(self) -> int:
        """Tokens that carry loss; the first id has none, since nothing predicts it."""
        later = self.labels[1:]
        return len(later) - later.count(IGNORE)


class Encoder:
    """A template, a tokenizer and the recipe's rules, bound together.

    Raises:
        UserError: the tokenizer has no end token, or the named BOS is not in its vocabulary.
    """

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

    def prompt(self, instruction: str, input: str = "") -> list[int]:
        """Ids that an answer is generated from."""
        return self._opening() + self.tokenizer.encode([self.template.prompt(instruction, input)])[0]

    def rows(self, examples: Sequence[Example]) -> list[Row]:
        """Encodes examples in their order, without the oldest turns of conversations that do not fit."""
        found = self._encoded(examples)
        shorter = {i: shortened(examples[i]) for i, row in enumerate(found) if row.cut}
        # By bisection: the fewest turns whose loss is enough, or all of them.
        bounds = {i: (0, len(options) - 1) for i, options in shorter.items() if options}
        while open_ := {i: (low, high) for i, (low, high) in bounds.items() if low < high}:
            rows = self._encoded([shorter[i][(low + high) // 2] for i, (low, high) in open_.items()])
            for (i, (low, high)), row in zip(open_.items(), rows, strict=True):
                middle = (low + high) // 2
                bounds[i] = (middle + 1, high) if row.cut else (low, middle)
        rows = self._encoded([shorter[i][low] for i, (low, _) in bounds.items()])
        for i, row in zip(bounds, rows, strict=True):
            found[i] = replace(row, forgot=True)
        return found

    def _encoded(self, examples: Sequence[Example]) -> list[Row]:
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
        """The text as the end token follows it (`prompt.strip_end`)."""
        return text.rstrip() if self.prompt_config.strip_end else text

    def _row(self, head: list[int], body: list[int]) -> Row:
        cutoff = self.prompt_config.cutoff
        opening = self._opening()
        whole = [*opening, *body, self.end_id]
        ids = whole[:cutoff]
        prompt = min(len(opening) + len(head), len(ids))
        masked = prompt if self.prompt_config.mask_prompt else 0
        labels = [IGNORE] * masked + ids[masked:]
        return Row(ids, labels, prompt, cut=len(whole) > cutoff, seam=body[: len(head)] != head)

    def _opening(self) -> list[int]:
        return [] if self.bos_id is None else [self.bos_id]

    def leading(self) -> list[list[int]]:
        """Runs of ids that rows begin with whatever they are about: the opening of each form of the template.

        What stands before the first slot is encoded with several texts behind it, since a tokenizer may join its last
        letters with the next ones; the ids that all of them have in common are the run.
        """
        runs = []
        for input in ("", "x"):
            prompts = [self.template.prompt(f"{text}x", input and f"{text}x") for text in FOLLOWING]
            encoded = self.tokenizer.encode(prompts)
            common = [same[0] for same in itertools.takewhile(lambda i: len(set(i)) == 1, zip(*encoded, strict=False))]
            if len(common) >= SHORTEST:
                runs.append(self._opening() + common)
        return [run for n, run in enumerate(runs) if run not in runs[:n]]

    def seams(self, examples: Sequence[Example]) -> int:
        """How many examples change their prompt's tokens when prompt and answer are tokenised as one text."""
        prompts = [self.template.prompt(e.instruction, e.input) for e in examples]
        heads = self.tokenizer.encode(prompts)
        joined = self.tokenizer.encode(
            [self._ended(p + self.template.answer(e.output)) for p, e in zip(prompts, examples, strict=True)]
        )
        return sum(body[: len(head)] != head for head, body in zip(heads, joined, strict=True))
