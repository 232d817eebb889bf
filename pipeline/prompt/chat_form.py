"""What a chat template does, found by rendering small conversations with it.

[user]               <s><|user|>Q<|end|>                            closed
[user], open         <s><|user|>Q<|end|><|assistant|>               header: what is added
[user, assistant]    <s><|user|>Q<|end|><|assistant|>A<|end|>       end: first special token after A
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from pipeline.prompt.chat_renderer import ChatRenderer, Dialogue, Refusal
from pipeline.prompt.rendered_text import RenderedTokenizer
from pipeline.run.errors import UserError

THINK = "<think>"  # opens the reasoning in an answer
QUESTION, ANSWER, SYSTEM = "What is it?", "It is here.", "Speak briefly."
MARK = re.compile(r"<\|?\w+\|?>")  # how special tokens are mostly spelt
U, A, S = ({"role": r, "content": c} for r, c in (("user", QUESTION), ("assistant", ANSWER), ("system", SYSTEM)))
NAME, PARAMETER, VALUE, RETURNED = "look_up_weather", "city_of_interest", "Uiseong", "fourteen degrees"
TOOL = {
    "type": "function",
    "function": {
        "name": NAME, "description": "Weather.",
        "parameters": {"type": "object", "properties": {PARAMETER: {"type": "string", "description": "City."}}},
    },
}  # fmt: skip
CALL = {"id": "call00001", "type": "function", "function": {"name": NAME, "arguments": {"city": VALUE}}}
CALLS = {"role": "assistant", "content": "", "tool_calls": [CALL]}
RESULT = {"role": "tool", "content": RETURNED, "name": NAME, "tool_call_id": "call00001"}


@dataclass(frozen=True)
class ChatForm:
    """Facts about a template with a tokenizer.

    headers: texts that open an answer, longest first: as for generation, and where thinking is switched on.
    end: the special token that ends an answer. bos: whether a conversation begins with the tokenizer's BOS token
    (SmolLM2 has <|im_start|> as BOS token; there each message begins with it, and none is the start).
    folds_system: the template has no system message, so its text goes in front of the first user turn, with a blank
    line in between. hides: an earlier answer is rendered in another form than the last one, so only the last one is
    in the form in which a model writes it. thinks: the template has a thinking mode (`enable_thinking`).
    opens_thinking: the header of an answer in this mode ends with `<think>`, so that the model does not write it.
    knows_tools: it writes descriptions of tools, calls, and what the tools return.
    """

    headers: tuple[str, ...]
    end: str
    bos: bool
    folds_system: bool
    hides: bool
    thinks: bool = False
    opens_thinking: bool = False
    knows_tools: bool = False

    @classmethod
    def of(cls, renderer: ChatRenderer, tokenizer: RenderedTokenizer, bos: str) -> ChatForm:
        """Probes the template. bos: the tokenizer's BOS token, empty where it has none.

        Raises:
            UserError: it refuses a question with an answer, leaves one of them out, or ends no answer with a special
                token.
        """
        closed, opened, thinking, pair, system, two, open_system, two_system, called = renderer.render(
            [Dialogue([U]), Dialogue([U], open=True), Dialogue([U], open=True, more={"enable_thinking": True}),
             Dialogue([U, A]), Dialogue([S, U, A]), Dialogue([U, A, U, A]), Dialogue([S, U], open=True),
             Dialogue([S, U, A, U, A]), Dialogue([U, CALLS, RESULT, A], tools=[TOOL])]
        )  # fmt: skip
        for text in (opened, pair):
            if isinstance(text, Refusal):
                what = f"the chat template refuses a question with its answer: {text.why}"
                raise UserError(what, renderer.where, "take another template (prompt.template)")
        assert isinstance(opened, str)
        assert isinstance(pair, str)
        after = pair.rpartition(ANSWER)[2] if ANSWER in pair else ""
        if ANSWER not in pair or QUESTION not in opened:
            what = "the chat template leaves out the text of a question or of its answer"
            raise UserError(what, renderer.where, "take another template (prompt.template)")
        end = tokenizer.pattern.search(after)
        if end is None:
            raise _endless(renderer, pair, after)
        headers = [_header(opened, closed, tokenizer)]
        if isinstance(thinking, str):
            headers.append(_header(thinking, closed, tokenizer))
        headers = sorted({h for h in headers if h}, key=len, reverse=True)
        folds = isinstance(system, Refusal) or SYSTEM not in system
        hides = _differs(opened, two) or (not folds and _differs(open_system, two_system))
        has_bos = bool(bos) and pair.startswith(bos) and pair.count(bos) == 1
        thinks = isinstance(thinking, str) and thinking != opened
        opens_thinking = thinks and str(thinking).rstrip().endswith(THINK)
        knows_tools = isinstance(called, str) and all(word in called for word in (NAME, PARAMETER, VALUE, RETURNED))
        return cls(tuple(headers), end[0], has_bos, folds, hides, thinks, opens_thinking, knows_tools)


def _differs(opened: str | Refusal, longer: str | Refusal) -> bool:
    """Whether a conversation does not begin with what stood there when its first answer was written."""
    return isinstance(opened, str) and isinstance(longer, str) and not longer.startswith(opened)


def _header(opened: str, closed: str | Refusal, tokenizer: RenderedTokenizer) -> str:
    """What generation adds to a conversation; where that is nothing, what comes after the question."""
    after_question = opened.rpartition(QUESTION)[2]
    if not isinstance(closed, str):
        return after_question.lstrip()
    same = next((n for n, (a, b) in enumerate(zip(opened, closed, strict=False)) if a != b), len(closed))
    # Two special tokens may begin with the same letters: the header begins with the whole one.
    for match in tokenizer.pattern.finditer(opened):
        if match.start() < same < match.end():
            same = match.start()
    return opened[same:] or after_question.lstrip()


def _endless(renderer: ChatRenderer, pair: str, after: str) -> UserError:
    """The error for a template whose answers have no end. pair: a question with its answer. after: what follows it."""
    what = "the chat template ends an answer with no special token of this tokenizer, so the model could never stop"
    fix = "take another template (prompt.template)"
    if after.strip():
        what += f": after the answer comes {after.split()[0][:40]!r}"
        marks = list(dict.fromkeys(MARK.findall(pair))) or [after.split()[0][:40]]
        fix = f"make its marks tokens, model.add_tokens: {json.dumps(marks)}, or take another template"
    return UserError(what, renderer.where, fix)
