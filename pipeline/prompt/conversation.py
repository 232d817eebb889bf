"""Conversations as text, with the places of their messages and of the special tokens that they spell."""

from __future__ import annotations

import bisect
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from pipeline.prompt import chat_spans
from pipeline.prompt.chat_renderer import ChatRenderer, Dialogue, Refusal
from pipeline.prompt.chat_spans import Span
from pipeline.prompt.rendered_text import PRIVATE

Message = dict[str, Any]


@dataclass(frozen=True)
class Conversation:
    """What is encoded.

    learn: of each message, false for answers that carry no loss. thinks: the model is asked for its reasoning.
    """

    messages: list[Message]
    learn: list[bool]
    tools: tuple[Any, ...] = ()
    thinks: bool = False

    def first(self, count: int) -> Conversation:
        """Its first messages."""
        return replace(self, messages=self.messages[:count], learn=self.learn[:count])

    def part(self, first: int, start: int, end: int, learnt: int) -> Conversation:
        """Its first messages up to `first`, and those from `start` to `end`; answers before `learnt` carry no loss."""
        learn = [carries and i >= learnt for i, carries in enumerate(self.learn)]
        messages = self.messages[:first] + self.messages[start:end]
        return replace(self, messages=messages, learn=learn[:first] + learn[start:end])

    def with_folded_system(self) -> Conversation:
        """The system message in front of the first user turn, for templates without system messages."""
        if not (self.messages and self.messages[0]["role"] == "system"):
            return self
        rest = list(self.messages[1:])
        first = next((i for i, message in enumerate(rest) if message["role"] == "user"), None)
        if first is None:
            return self
        rest[first] = {**rest[first], "content": f"{self.messages[0]['content']}\n\n{rest[first]['content']}"}
        return replace(self, messages=rest, learn=self.learn[1:])

    @property
    def answers(self) -> list[int]:
        """Indices of the assistant's messages."""
        return [i for i, message in enumerate(self.messages) if message["role"] == "assistant"]


@dataclass(frozen=True)
class Rendered:
    """A conversation as text. places: of its messages. spelt: special tokens in it that a message spells."""

    text: str
    places: chat_spans.Places
    spelt: list[Span]


class Conversations:
    """Renders conversations with one template. pattern: of the tokenizer's special tokens."""

    def __init__(self, renderer: ChatRenderer, pattern: re.Pattern[str]) -> None:
        self.renderer, self.pattern = renderer, pattern

    def render(self, conversations: Sequence[Conversation], open: bool = False) -> list[Rendered | Refusal]:
        """Conversations as text with the places of their messages. open: with the header of the next answer."""

        marked = [chat_spans.marked(c.messages, self.pattern) for c in conversations]
        pairs = [(_dialogue(c, c.messages, open), _dialogue(c, m.messages if m else c.messages, open))
                 for c, m in zip(conversations, marked, strict=True)]  # fmt: skip
        texts = self.renderer.render([dialogue for pair in pairs for dialogue in pair])
        results: list[Rendered | Refusal] = []
        for c, m, plain, with_marks in zip(conversations, marked, texts[::2], texts[1::2], strict=True):
            if isinstance(plain, Refusal):
                results.append(Refusal(self._where_refused(c, open, plain.why)))
                continue
            places = None
            if m is not None and isinstance(with_marks, str):
                places = chat_spans.read(plain, with_marks, m)
            if places is None:
                places = self._other_places(c, open, plain)
            rendered = Rendered(plain, places, self._spelt(plain, places))
            why = self._unclear(c, rendered)
            results.append(Refusal(why) if why else rendered)
        return results

    def _unclear(self, conversation: Conversation, rendered: Rendered) -> str:
        """Why it is not known which special tokens of a text are spelt by a message; empty if it is."""
        places = rendered.places
        for i, message in enumerate(conversation.messages):
            content = message.get("content")
            if (
                isinstance(content, str)
                and None in (places.opens[i], places.closes[i])
                and self.pattern.search(content)
            ):
                return f"turn {i + 1}: it spells a special token, and the template changes its text"
        if rendered.spelt and PRIVATE.search(rendered.text):
            return "it spells special tokens, and has characters of the private use plane 16"
        return ""

    def _other_places(self, conversation: Conversation, open: bool, plain: str) -> chat_spans.Places:
        """The places where marks around every text change what is rendered."""
        messages = conversation.messages
        marked = chat_spans.marked(messages, self.pattern, answers_only=True)
        known = None
        if marked is not None:
            text = self.renderer.render([_dialogue(conversation, marked.messages, open)])[0]
            known = chat_spans.read(plain, text, marked) if isinstance(text, str) else None
        return chat_spans.searched(plain, messages, self.pattern, known)

    def _spelt(self, text: str, places: chat_spans.Places) -> list[Span]:
        """Special tokens in the text that a message spells."""
        found = [match.span() for match in self.pattern.finditer(text)]
        both = zip(places.opens, places.closes, strict=True)
        inside = [(a, b) for a, b in both if a is not None and b is not None] + places.guarded
        inside.sort()
        starts = [a for a, _ in inside]
        spelt = []
        for start, end in found:
            n = bisect.bisect_right(starts, start) - 1
            if n >= 0 and end <= inside[n][1]:
                spelt.append((start, end))
        return spelt

    def _where_refused(self, conversation: Conversation, open: bool, why: str) -> str:
        """The template's words with the number of the turn that it stumbles over."""
        messages = conversation.messages
        starts = [_dialogue(conversation, messages[:n], open) for n in range(1, min(len(messages), 100))]
        refused = [isinstance(text, Refusal) for text in self.renderer.render(starts)]
        # A beginning may be refused for being one, so the turn is the first after which all are.
        accepted = max((n for n, bad in enumerate(refused, 1) if not bad), default=0)
        return f"turn {accepted + 1} ({messages[accepted]['role']}): {why}"


def _dialogue(conversation: Conversation, messages: Sequence[Any], open: bool) -> Dialogue:
    """These messages with what the conversation passes to the template."""
    more = {"enable_thinking": True} if conversation.thinks else {}
    return Dialogue(messages, open, conversation.tools, more)
