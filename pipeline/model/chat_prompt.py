"""A conversation as ids, in the form that a model was tuned to: by its own chat template, where it has one.

The template is rendered with a mark in the place of each message's text. Only what the template itself wrote is
searched for special tokens; a special token spelt in a message stays text:

    rendered   <|im_start|>user\\n MARK <|im_end|>\\n<|im_start|>assistant\\n
    ids        [1]  user\\n + text  [2]  \\n  [1]  assistant\\n
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from pipeline.model import hf_tokenizer
from pipeline.model.base import Base
from pipeline.prompt.tokenizer import Tokenizer
from pipeline.run.errors import UserError, one_line

Messages = Sequence[tuple[str, str]]  # (role, content)
MARK = "\ue000{}\ue001"  # private use: no template has them
PLACE = re.compile("\ue000([0-9]+)\ue001")


class ChatPrompt:
    """Encodes conversations for one base.

    Attributes:
        tokenizer: of the base. end_ids: ids that end a reply.
        has_template: False: the base was not tuned to a form, and prompts are written as Alpaca's.
    """

    def __init__(self, base: Base) -> None:
        self.tokenizer = Tokenizer(base.tokenizer)
        self._stock = hf_tokenizer.load(base.tokenizer)
        self.has_template = bool(self._stock.chat_template)
        own = (self.tokenizer.eos_id, *base.eos)
        self.end_ids = tuple(dict.fromkeys(id for id in own if id is not None))
        if not self.end_ids:
            raise UserError("the tokenizer has no end token", str(base.tokenizer), "name a model that has one")
        spellings = sorted(self.tokenizer.special_ids.values(), key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, filter(None, spellings))) or r"(?!)")

    def ids(self, messages: Messages) -> list[int]:
        """The prompt of a conversation that ends with the user's message.

        Raises:
            UserError: the template cannot be rendered.
        """
        text = self._rendered(messages) if self.has_template else _completion(messages)
        ids: list[int] = []
        if not self.has_template and self.tokenizer.adds_bos and self.tokenizer.bos_id is not None:
            ids = [self.tokenizer.bos_id]
        place = 0
        for match in self._special.finditer(text):
            ids += self._plain(text[place : match.start()], messages, bool(ids))
            special = self.tokenizer.token_id(match.group())
            assert special is not None
            ids.append(special)
            place = match.end()
        return ids + self._plain(text[place:], messages, bool(ids))

    def _plain(self, text: str, messages: Messages, follows: bool) -> list[int]:
        """Ids of a text between special tokens, with the messages in the place of their marks."""
        text = PLACE.sub(lambda match: messages[int(match[1])][1], text)
        if not text:
            return []
        encode = self.tokenizer.encode_after if follows else self.tokenizer.encode
        return encode([text])[0]

    def _rendered(self, messages: Messages) -> str:
        marked = [{"role": role, "content": MARK.format(n)} for n, (role, _) in enumerate(messages)]
        try:
            return self._render(marked)
        except UserError:
            if marked[0]["role"] != "system" or len(marked) == 1:
                raise
        # Some templates know no system message: its text then stands in front of the user's first one.
        first = f"{marked[0]['content']}\n\n{marked[1]['content']}"
        return self._render([{"role": marked[1]["role"], "content": first}, *marked[2:]])

    def _render(self, marked: list[dict[str, str]]) -> str:
        try:
            text: Any = self._stock.apply_chat_template(marked, tokenize=False, add_generation_prompt=True)
        except Exception as error:  # of jinja, of many classes
            what = f"the model's chat template refuses the conversation: {one_line(error)}"
            raise UserError(what, str(self.tokenizer.folder), "name another model") from None
        return str(text)


def _completion(messages: Messages) -> str:
    """The form of Alpaca's prompts (stanford_alpaca), which continuations of most bases keep to."""
    heads = {"system": "", "user": "### Instruction:\n", "assistant": "### Response:\n"}
    parts = [f"{heads.get(role, '')}{MARK.format(n)}\n\n" for n, (role, _) in enumerate(messages)]
    return "".join(parts) + "### Response:\n"
