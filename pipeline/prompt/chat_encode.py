"""Encodes conversations as ids and labels with a chat template; the interface is that of `encode.Encoder`.

The ids of a conversation are those of `apply_chat_template(tokenize=True)`, with one difference: a special token that
a text spells stays text. `chat_labels.py` says what carries loss. Where the beginning of an answer changes the ids of
the header before it ("\\n" and "\\nHello" as one "\\n\\n"), the row is counted as a seam; a token with letters of both
carries no loss.

A conversation longer than the cutoff loses whole turns from its end, so that it ends with an answer and its end token;
if its first answer does not fit, it is cut. One that the template refuses becomes a row without ids and with a
`problem`.
"""

from __future__ import annotations

import bisect
import itertools
import re
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cached_property

from pipeline.config.schema import Prompt
from pipeline.dataset.example import Example
from pipeline.prompt import chat_labels
from pipeline.prompt.chat_form import ChatForm
from pipeline.prompt.chat_renderer import ChatRenderer, Refusal
from pipeline.prompt.chat_split import split_rows
from pipeline.prompt.chat_template import ChatTemplate
from pipeline.prompt.conversation import Conversation, Conversations, Message, Rendered
from pipeline.prompt.encode import FOLLOWING, IGNORE, MIN_PREAMBLE, Row
from pipeline.prompt.rendered_text import PRIVATE, EncodedText, RenderedTokenizer
from pipeline.prompt.text_calls import with_calls
from pipeline.prompt.tokenizer import Tokenizer
from pipeline.prompt.tokens import PART
from pipeline.run.errors import UserError

SYSTEMS = 8  # system texts that get a preamble, the most frequent ones


class ChatEncoder:
    """Encodes with one chat template, one tokenizer and the settings of `prompt`.

    Raises:
        UserError: as `ChatForm.of` and `ChatRenderer.render`.
    """

    is_chat = True

    def __init__(self, template: ChatTemplate, tokenizer: Tokenizer, prompt: Prompt, where: str = "") -> None:
        self.template, self.tokenizer, self.prompt_config = template, tokenizer, prompt
        self.text = RenderedTokenizer(tokenizer)
        ids = {"bos_token": tokenizer.bos_id, "eos_token": tokenizer.eos_id, "unk_token": tokenizer.unk_id,
               "pad_token": tokenizer.pad_id}  # fmt: skip
        self.names = {name: tokenizer.token(id) for name, id in ids.items() if id is not None}
        self.renderer = ChatRenderer(template.text, self.names, where or template.id)
        self.conversations = Conversations(self.renderer, self.text.pattern)
        self.form = ChatForm.of(self.renderer, self.text, self.names.get("bos_token", ""))
        self.end_id = self.text.specials[self.form.end]
        self.bos_id = tokenizer.bos_id if self.form.bos else None
        self.notes: list[str] = []
        self._headers: dict[str, list[int]] = {}  # ids of headers alone
        if self.form.folds_system:
            self.notes.append("the chat template has no system message: its text goes in front of the first user turn")
        if self.form.hides:
            self.notes.append(
                "the chat template renders earlier answers in another form than the last one, so each answer is "
                "learnt in a row of its own, as the last one (prompt.loss=last: one row a conversation)"
            )

    # What is encoded

    def conversation(self, example: Example, before: Sequence[Example] = ()) -> Conversation:
        """The conversation of an example, with the system text where the template has a place for it.

        Args:
            before: examples whose turns, without their system messages, come first and carry no loss.
        """
        messages = example.messages()
        learn = [True] * len(messages)
        if example.turns:
            learn = [True] * (len(messages) - len(example.turns)) + [turn.learn for turn in example.turns]
        start = 1 if example.system else 0
        turns = [message for earlier in before for message in earlier.messages()[1 if earlier.system else 0 :]]
        messages[start:start], learn[start:start] = turns, [False] * len(turns)
        conversation = Conversation(messages, learn, tuple(example.tools))
        return self._folded(with_calls(conversation) if self.form.knows_tools else conversation)

    def _folded(self, given: Conversation) -> Conversation:
        return given.with_folded_system() if self.form.folds_system else given

    # Prompts

    def prompt(self, instruction: str, input: str = "") -> list[int]:
        """Ids of a single question, for generation."""
        question = f"{instruction}\n\n{input}" if input else instruction
        return self.prompt_of([{"role": "user", "content": question}])

    def prompt_for(self, example: Example, before: Sequence[Example] = ()) -> list[int]:
        """Ids up to the last answer of an example, for generation. before: as of `conversation`."""
        whole = self.conversation(example, before)
        last = whole.answers[-1] if whole.answers else len(whole.messages)
        return self._prompt(whole.first(last))

    def prompt_of(self, messages: Sequence[Message], answer: str = "", thinks: bool = False) -> list[int]:
        """Ids of a conversation that ends with the user, and the header of the answer.

        Args:
            answer: its beginning, for a model that goes on with it.
            thinks: passes `enable_thinking` to the template, which training does not.

        Raises:
            UserError: the template refuses it.
        """
        conversation = Conversation(list(messages), [True] * len(messages), thinks=thinks)
        return self._prompt(self._folded(conversation), answer)

    def _prompt(self, conversation: Conversation, answer: str = "") -> list[int]:
        rendered = self.conversations.render([conversation], open=True)[0]
        if isinstance(rendered, Refusal):
            raise UserError(
                f"the chat template refuses this conversation: {rendered.why}", self.renderer.where, "ask otherwise"
            )
        text, start = rendered.text + answer, len(rendered.text)
        spelt = [*rendered.spelt, *((start + m.start(), start + m.end()) for m in self.text.pattern.finditer(answer))]
        if answer and spelt and PRIVATE.search(text):
            what = "it spells special tokens, and has characters of the private use plane 16"
            raise UserError(what, self.renderer.where, "leave one of them out")
        return self.text.encode([text], [spelt])[0].ids

    # Rows

    def rows(self, examples: Sequence[Example]) -> list[Row]:
        """Encodes examples in their order; those that are too long lose turns from their end."""
        return self.rows_of([self.conversation(example) for example in examples])

    def row_after(self, example: Example, before: Sequence[Example]) -> Row:
        """The row of an example after others, however long it is; only its own answers carry loss.

        Args:
            before: as of `conversation`.
        """
        row = self._encode([self.conversation(example, before)], sys.maxsize)[0]
        if self.template.loss == "all" and before:  # which labels questions too
            shots = [turn for e in before for turn in e.messages()]
            given = [m for m in shots if m["role"] != "system"]
            system = [{"role": "system", "content": example.system}] if example.system else []
            closed = Conversation([*system, *given], [False] * (len(system) + len(given)))
            first = self._encode([self._folded(closed)], sys.maxsize)[0].ids
            same = sum(
                1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(first, row.ids, strict=False))
            )
            row = replace(row, labels=[IGNORE] * same + row.labels[same:])
        return row

    def named_rows(self, examples: Sequence[Example]) -> list[tuple[Example, str, Row]]:
        """Each example with the rows that training has of it, and their names.

        There is one row, named by the example's id. There are several, ID#1, ID#2, ..., ID, for a conversation that is
        split (`prompt.too_long`), and one for each answer that fits where the template hides (`ChatForm.hides`).
        """
        conversations = [self.conversation(example) for example in examples]
        hides = self.form.hides and self.template.loss == "answers"
        splits = self.prompt_config.too_long == "split"
        rows = self._encode(conversations) if hides or splits else self.rows_of(conversations)
        named: list[tuple[Example, str, Row]] = []
        for example, conversation, row in zip(examples, conversations, rows, strict=True):
            parts = [row]
            if splits and row.cut:
                parts = self._split(conversation, hides, row)
            elif hides and not row.problem:
                parts = self._beginnings(conversation, row)
            named += [(example, f"{example.id}{PART}{n}", part) for n, part in enumerate(parts[:-1], 1)]
            named.append((example, example.id, parts[-1]))
        return named

    def _beginnings(self, conversation: Conversation, row: Row) -> list[Row]:
        """A row for each learnt answer that fits into the cutoff, the whole conversation (`row`) last."""
        if row.cut and self.prompt_config.too_long == "reject":
            return [row]
        ends = [i + 1 for i in conversation.answers if conversation.learn[i]]
        rows = self._encode([conversation.first(end) for end in ends if end < len(conversation.messages)])
        fitting = [r for r in [*rows, row] if not r.cut and not r.problem]
        if not fitting:
            return [rows[0] if rows else row]
        return [*fitting[:-1], replace(fitting[-1], lost_turns=row.cut)]

    def _split(self, conversation: Conversation, hides: bool, cut: Row) -> list[Row]:
        """The rows of a conversation that is too long. cut: its row up to the cutoff, if none of its answers fits."""
        if self.template.loss == "last":
            last = conversation.answers[-1:]
            conversation = replace(conversation, learn=[i in last for i in range(len(conversation.messages))])
        alone = hides or self.template.loss == "last"
        rows, left_out = split_rows(conversation, lambda c: self._encode([c])[0], self.prompt_config.cutoff, alone)
        rows = [row for row in rows if row.labelled] or [cut]
        return [*rows[:-1], replace(rows[-1], left_out=left_out)]

    def rows_of(self, conversations: Sequence[Conversation]) -> list[Row]:
        """As `rows`."""
        rows = self._encode(conversations)
        if self.prompt_config.too_long == "reject":
            return rows
        # Bisection over the answers that a conversation may end with.
        ends = {i: [n + 1 for n in conversations[i].answers] for i, row in enumerate(rows) if row.cut}
        ends = {i: of for i, of in ends.items() if of and (len(of) > 1 or of[-1] < len(conversations[i].messages))}
        bounds = {i: (0, len(of)) for i, of in ends.items()}  # the first that does not fit
        while open_ := {i: pair for i, pair in bounds.items() if pair[0] < pair[1]}:
            middles = {i: (low + high) // 2 for i, (low, high) in open_.items()}
            tried = self._encode([conversations[i].first(ends[i][n]) for i, n in middles.items()])
            for (i, n), row in zip(middles.items(), tried, strict=True):
                bounds[i] = (bounds[i][0], n) if row.cut or row.problem else (n + 1, bounds[i][1])
        short = {i: conversations[i].first(ends[i][max(0, low - 1)]) for i, (low, _) in bounds.items()}
        for i, row in zip(short, self._encode(list(short.values())), strict=True):
            rows[i] = replace(row, lost_turns=True)
        return rows

    def _encode(self, conversations: Sequence[Conversation], cutoff: int = 0) -> list[Row]:
        """Rows of whole conversations, cut at `cutoff` tokens; 0 = at `prompt.cutoff`."""
        rendered = self.conversations.render(conversations)
        texts = [r for r in rendered if isinstance(r, Rendered)]
        encoded = iter(self.text.encode([r.text for r in texts], [r.spelt for r in texts]))
        rows = []
        for conversation, result in zip(conversations, rendered, strict=True):
            if isinstance(result, Refusal):
                rows.append(Row([], [], 0, cut=False, seam=False, problem=result.why))
            else:
                rows.append(self._row(conversation, result, next(encoded), cutoff or self.prompt_config.cutoff))
        return rows

    def _row(self, conversation: Conversation, rendered: Rendered, encoded: EncodedText, cutoff: int) -> Row:
        messages, text = conversation.messages, rendered.text
        real = self.text.real(text, rendered.spelt)
        try:
            chat_labels.check_tools(text, messages, conversation.tools, rendered.places)
            answers = chat_labels.answers_in(text, messages, rendered.places, self.form, real)
            sound = {max(answers)} if self.form.hides and answers else set(answers)
            spans = chat_labels.learnt(
                text, messages, conversation.learn, answers, rendered.places, self.template.loss, sound
            )
        except chat_labels.Unplaced as error:
            return Row([], [], 0, cut=False, seam=False, problem=str(error))
        ids = encoded.ids
        labels = chat_labels.of_tokens(encoded, spans)
        seam = any(self._is_seam(text, start, real, encoded) for start, _ in answers.values())
        prompt = next((i for i, label in enumerate(labels[:cutoff]) if label != IGNORE), len(ids[:cutoff]))
        return Row(ids[:cutoff], labels[:cutoff], prompt, cut=len(ids) > cutoff, seam=seam)

    def _is_seam(self, text: str, start: int, real: Sequence[re.Match[str]], encoded: EncodedText) -> bool:
        """Whether the header before an answer has other ids than in a prompt, where nothing follows it.

        Args:
            start: of the answer. real: special tokens of the text.
        """
        before = bisect.bisect_right(real, start, key=lambda match: match.end()) - 1
        begin = real[before].start() if before >= 0 else 0
        header = text[begin:start]
        if header not in self._headers:
            self._headers[header] = self.text.encode([header], [()])[0].ids
        first, last = (bisect.bisect_left(encoded.spans, place, key=lambda span: span[0]) for place in (begin, start))
        return encoded.ids[first:last] != self._headers[header]

    # What training and reports ask for

    def preambles(self, examples: Iterable[Example] = ()) -> list[list[int]]:
        """Ids that rows with any first question begin with: the template's text before it.

        Args:
            examples: whose system texts, where several have the same, are part of a preamble.
        """
        systems = Counter(e.system for e in examples if e.system)
        frequent = [text for text, count in systems.most_common(SYSTEMS) if count > 1]
        preambles: list[list[int]] = []
        for system in ("", *frequent):
            before = [{"role": "system", "content": system}] if system else []
            prompts = [
                self.prompt_of([*before, {"role": "user", "content": f"{following}x"}]) for following in FOLLOWING
            ]
            columns = itertools.takewhile(lambda ids: len(set(ids)) == 1, zip(*prompts, strict=False))
            common = [ids[0] for ids in columns]
            if len(common) >= MIN_PREAMBLE and common not in preambles:
                preambles.append(common)
        return preambles

    def seams(self, examples: Sequence[Example]) -> int:
        """How many rows have a header with other ids than in a prompt."""
        return sum(row.seam for row in self.rows(examples))

    @cached_property
    def writes_eos(self) -> bool:
        """Whether the template asks for the tokenizer's end token, which an export must then leave as it is."""
        return "eos_token" in self.template.text
