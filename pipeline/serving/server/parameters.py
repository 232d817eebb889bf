"""What a request asks for: OpenAI's parameters, checked.

Without a temperature an answer is greedy (OpenAI's default is 1), as everywhere in this project: what was measured is
what is served. Parameters that would change the answer and are not supported are refused, unless their value asks for
nothing; those that change nothing are ignored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.serving.engine.request import Sampling
from pipeline.serving.server.api_error import ApiError
from pipeline.serving.server.fields import Fields, wrong_kind

MOST_CHOICES = 8  # `n`
MOST_STOPS, LONGEST_STOP = 4, 256  # stop texts, and characters of one
MOST_PROMPTS = 64  # of a completion
CHAT_ALTERNATIVES, COMPLETION_ALTERNATIVES = 20, 5  # top_logprobs
COMPLETION_TOKENS = 16  # OpenAI's default of a completion
LARGEST_SEED = 2**63 - 1

COMMON = ("model", "stream", "stream_options", "stop", "seed", "n", "max_tokens", "temperature", "top_p", "top_k",
          "repetition_penalty", "frequency_penalty", "presence_penalty", "logprobs")  # fmt: skip
CHAT = (*COMMON, "messages", "max_completion_tokens", "top_logprobs", "input", "continue_final_message")
COMPLETION = (*COMMON, "prompt")
HARMLESS = ("user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key",
            "prompt_cache_retention", "parallel_tool_calls")  # fmt: skip
# Not supported; with the values that ask for nothing.
NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "tools": ([],), "tool_choice": ("none", "auto"), "functions": ([],), "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},), "modalities": (["text"],), "audio": (), "prediction": (),
    "reasoning_effort": ("none",), "verbosity": (), "web_search_options": (), "logit_bias": ({},), "best_of": (1,),
    "echo": (False,), "suffix": ("",),
}  # fmt: skip


@dataclass(frozen=True)
class Parameters:
    """How answers are generated and sent.

    Attributes:
        max_tokens: None: as many as the context and the server allow. top_logprobs: None: no log-probabilities.
        include_usage: whether a stream ends with the number of tokens.
    """

    model: str
    max_tokens: int | None
    sampling: Sampling
    choices: int = 1
    stop: tuple[str, ...] = ()
    top_logprobs: int | None = None
    stream: bool = False
    include_usage: bool = False


@dataclass(frozen=True)
class ChatRequest:
    """messages: as they came. input: of a row in Alpaca form. continues: the last message is the beginning of the
    answer."""

    parameters: Parameters
    messages: Sequence[Any]
    input: str = ""
    continues: bool = False


@dataclass(frozen=True)
class CompletionRequest:
    """prompts: texts, or ids."""

    parameters: Parameters
    prompts: tuple[str | tuple[int, ...], ...]


def chat_request(body: Mapping[str, Any], most_tokens: int) -> ChatRequest:
    """Reads the body of `/v1/chat/completions`.

    Args:
        most_tokens: longest answer that may be asked for.

    Raises:
        ApiError: names the first parameter that is wrong.
    """
    fields = Fields(body)
    fields.check_names((*CHAT, *HARMLESS), NEUTRAL)
    messages = fields.get("messages")
    if messages is None:
        raise _missing("messages")
    if not isinstance(messages, list):
        raise wrong_kind("messages", "a list", messages)
    alternatives = fields.whole("top_logprobs", None, 0, CHAT_ALTERNATIVES)
    wants = fields.flag("logprobs")
    if alternatives is not None and not wants:
        raise ApiError("top_logprobs needs logprobs: true", "top_logprobs", "invalid_value")
    limit = "max_completion_tokens" if "max_completion_tokens" in fields else "max_tokens"
    parameters = _parameters(fields, fields.whole(limit, None, 1, most_tokens), (alternatives or 0) if wants else None)
    return ChatRequest(parameters, messages, fields.text("input"), fields.flag("continue_final_message"))


def completion_request(body: Mapping[str, Any], most_tokens: int) -> CompletionRequest:
    """Reads the body of `/v1/completions`.

    Raises:
        ApiError: as `chat_request`.
    """
    fields = Fields(body)
    fields.check_names((*COMPLETION, *HARMLESS), NEUTRAL)
    alternatives = None
    if fields.get("logprobs") is not False:  # some clients write false for none
        alternatives = fields.whole("logprobs", None, 0, COMPLETION_ALTERNATIVES)
    limit = fields.whole("max_tokens", min(COMPLETION_TOKENS, most_tokens), 1, most_tokens)
    return CompletionRequest(_parameters(fields, limit, alternatives), _prompts(fields.get("prompt")))


def _parameters(fields: Fields, max_tokens: int | None, top_logprobs: int | None) -> Parameters:
    stream = fields.flag("stream")
    choices = fields.whole("n", 1, 1, MOST_CHOICES)
    return Parameters(
        model=_model(fields),
        max_tokens=max_tokens,
        sampling=_sampling(fields),
        choices=choices or 1,
        stop=_stop(fields.get("stop")),
        top_logprobs=top_logprobs,
        stream=stream,
        include_usage=_include_usage(fields.get("stream_options"), stream),
    )


def _model(fields: Fields) -> str:
    if "model" not in fields:
        raise _missing("model")
    return fields.text("model")


def _sampling(fields: Fields) -> Sampling:
    temperature = fields.number("temperature", 0.0, 0.0, 2.0)
    top_p = fields.number("top_p", 1.0, 0.0, 1.0)
    top_k = fields.whole("top_k", 0, -1, 1_000_000) or 0
    return Sampling(
        temperature=temperature if top_p > 0 else 0.0,  # no share of probability: the most likely token
        top_p=top_p if top_p > 0 else 1.0,
        top_k=max(0, top_k),  # some servers write -1 for all
        repetition_penalty=fields.number("repetition_penalty", 1.0, 0.01, 10.0),
        frequency_penalty=fields.number("frequency_penalty", 0.0, -2.0, 2.0),
        presence_penalty=fields.number("presence_penalty", 0.0, -2.0, 2.0),
        seed=fields.whole("seed", None, -LARGEST_SEED - 1, LARGEST_SEED),
    )


def _stop(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise wrong_kind("stop", "a text or a list of texts", value)
    if len(texts) > MOST_STOPS:
        raise ApiError(f"stop holds at most {MOST_STOPS} texts, not {len(texts)}", "stop", "array_above_max_length")
    if any(not text for text in texts):
        raise ApiError("stop holds an empty text", "stop", "empty_string")
    if any(len(text) > LONGEST_STOP for text in texts):
        message = f"a text of stop has at most {LONGEST_STOP} characters"
        raise ApiError(message, "stop", "string_above_max_length")
    return tuple(texts)


def _include_usage(value: Any, stream: bool) -> bool:
    if value is None:
        return False
    if not isinstance(value, dict):
        raise wrong_kind("stream_options", "an object", value)
    if not stream:
        raise ApiError("stream_options needs stream: true", "stream_options", "invalid_value")
    options = Fields(value)
    options.check_names(("include_usage", "include_obfuscation"), {})
    return options.flag("include_usage")


def _prompts(value: Any) -> tuple[str | tuple[int, ...], ...]:
    """The prompts of a completion: a text, ids, or a list of either."""
    if value is None:
        raise _missing("prompt")
    several = isinstance(value, list) and bool(value) and all(isinstance(one, (str, list)) for one in value)
    prompts = value if several else [value]
    if len(prompts) > MOST_PROMPTS:
        message = f"at most {MOST_PROMPTS} prompts in a request, not {len(prompts)}"
        raise ApiError(message, "prompt", "array_above_max_length")
    return tuple(_prompt(one) for one in prompts)


def _prompt(value: Any) -> str | tuple[int, ...]:
    if isinstance(value, str):
        return value
    if not isinstance(value, list) or not all(isinstance(id, int) and not isinstance(id, bool) for id in value):
        raise wrong_kind("prompt", "a text, a list of token ids, or a list of these", value)
    return tuple(value)


def _missing(name: str) -> ApiError:
    return ApiError(f"{name} is missing", name, "missing_required_parameter")
