"""A conversation as the prompt that training would have made of it.

With a chat template the conversation is rendered; with a template of rows it becomes a row, as
`pipeline.dataset.read.conversation` makes it: the system text in front of the instruction, earlier turns in the input.
The ids are those of the export's own chat template, with one difference: a special token that a message spells stays
text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.dataset.read.conversation import conversation_rows
from pipeline.dataset.read.row import RawRow
from pipeline.prompt.any_encoder import AnyEncoder
from pipeline.prompt.chat_encode import ChatEncoder
from pipeline.prompt.encode import Encoder
from pipeline.run.errors import UserError
from pipeline.run.terminal import quoted
from pipeline.serving.server.api_error import ApiError, unsupported
from pipeline.serving.server.fields import wrong_kind

MOST_MESSAGES = 2048
ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
NOT_TEXT = ("tool_calls", "function_call", "audio", "tool_call_id")

Message = dict[str, str]  # role and content


@dataclass(frozen=True)
class Prompt:
    """ids: of the prompt. begun: of these, the ids of an answer that is to be continued, last."""

    ids: tuple[int, ...]
    begun: tuple[int, ...] = ()


def chat_prompt(encoder: AnyEncoder, messages: Sequence[Any], input: str = "", continues: bool = False) -> Prompt:
    """The prompt of a conversation.

    Args:
        input: of a row in Alpaca form; only of a single question. continues: the last message is the beginning of the
            answer.

    Raises:
        ApiError: names the message that cannot be used.
    """
    read = read_messages(messages)
    begun = ""
    if continues:
        if read[-1]["role"] != "assistant":
            message = "continue_final_message needs an answer of the assistant as the last message"
            raise ApiError(message, "continue_final_message", "invalid_value")
        begun = read.pop()["content"]
    _check_order(read, "messages")
    if input and sum(message["role"] != "system" for message in read) > 1:
        raise ApiError("input belongs to a single question, and there are earlier turns", "input", "invalid_value")
    try:
        ids = _ids(encoder, read, input, begun)
        start = len(_ids(encoder, read, input, "")) if begun else len(ids)
    except UserError as error:
        raise ApiError(error.what, "messages", "invalid_prompt") from None
    return Prompt(tuple(ids), tuple(ids[start:]))


def read_messages(messages: Sequence[Any]) -> list[Message]:
    """Messages with their roles and texts; empty system messages are left out.

    Raises:
        ApiError: an unknown role, anything but text, or an empty message.
    """
    if not messages:
        raise ApiError("messages is empty", "messages", "empty_array")
    if len(messages) > MOST_MESSAGES:
        message = f"at most {MOST_MESSAGES:,} messages, not {len(messages):,}"
        raise ApiError(message, "messages", "array_above_max_length")
    read = []
    for n, message in enumerate(messages):
        place = f"messages[{n}]"
        if not isinstance(message, dict):
            raise wrong_kind(place, "an object", message)
        role = message.get("role")
        if not isinstance(role, str) or role not in ROLES:
            shown = quoted(role) if isinstance(role, str) else "missing"
            raise ApiError(f"the role of message {n + 1} is {shown}; there are {', '.join(ROLES)}",
                           f"{place}.role", "invalid_value")  # fmt: skip
        for name in NOT_TEXT:
            if message.get(name):
                raise unsupported(f"{place}.{name}", f"{name} is not supported by this server")
        text = _text(message.get("content"), f"{place}.content")
        if text.strip():
            read.append({"role": ROLES[role], "content": text})
        elif ROLES[role] != "system":
            raise ApiError(f"message {n + 1} is empty", f"{place}.content", "empty_string")
    if not read:
        raise ApiError("the messages hold no question", "messages", "invalid_value")
    return read


def _text(content: Any, place: str) -> str:
    """A message's text, which may be given in parts."""
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, list):
        raise wrong_kind(place, "a text or a list of parts", content)
    texts = []
    for n, part in enumerate(content):
        where = f"{place}[{n}]"
        if not isinstance(part, dict):
            raise wrong_kind(where, "an object", part)
        if part.get("type") != "text":
            kind = part.get("type")
            shown = quoted(kind) if isinstance(kind, str) else "missing"
            raise ApiError(f"the type of a part is {shown}; this server takes text only", where, "unsupported_value")
        if not isinstance(part.get("text"), str):
            raise wrong_kind(f"{where}.text", "a text", part.get("text"))
        texts.append(part["text"])
    return "\n".join(texts)


def _check_order(messages: Sequence[Message], param: str) -> None:
    if not messages or messages[-1]["role"] != "user":
        message = "the last message must be the user's; or set continue_final_message to go on with an answer"
        raise ApiError(message, param, "invalid_value")


def _ids(encoder: AnyEncoder, messages: Sequence[Message], input: str, begun: str) -> list[int]:
    if not isinstance(encoder, ChatEncoder):
        return _row_ids(encoder, messages, input, begun)
    if input:
        last = messages[-1]
        messages = [*messages[:-1], {**last, "content": f"{last['content']}\n\n{input}"}]
    return encoder.prompt_of(messages, begun)


def _row_ids(encoder: Encoder, messages: Sequence[Message], input: str, begun: str) -> list[int]:
    answered = [*messages, {"role": "assistant", "content": "-"}]
    row = conversation_rows(RawRow({}, ""), answered, prompt=len(messages))[-1]
    if row.error:
        raise ApiError(row.error, "messages", "invalid_prompt")
    return encoder.prompt(row.value["instruction"], input or row.value["input"], begun)


def text_prompt(encoder: AnyEncoder, prompt: str | tuple[int, ...]) -> Prompt:
    """A completion's prompt without the template: a text, which never becomes a special token, or ids.

    Raises:
        ApiError: it is empty, or an id is not in the vocabulary.
    """
    if isinstance(prompt, str):
        start = [] if encoder.bos_id is None else [encoder.bos_id]
        ids = tuple(start + encoder.tokenizer.encode([prompt])[0])
    else:
        ids, size = prompt, encoder.tokenizer.size
        if wrong := next((id for id in ids if not 0 <= id < size), None):
            raise ApiError(f"{wrong} is no token of this model, which has {size:,}", "prompt", "invalid_value")
    if not ids:
        raise ApiError("the prompt is empty", "prompt", "empty_array")
    return Prompt(ids)
