"""From a prompt to a request: the settings of the model that is asked, and whether its reply is to be JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.config.synthesis import Asked, Synthesis
from pipeline.synthesis.request import Request, Role
from pipeline.synthesis.teachers import asked_of


def request_of(
    settings: Synthesis, messages: str | Sequence[tuple[str, str]], purpose: str,
    schema: Mapping[str, Any] | None = None, role: Role = "teacher", draw: int = 0,
) -> Request:  # fmt: skip
    """A request to the model of a role.

    Args:
        messages: the conversation as (role, content), or one message of the user.
        schema: what the reply is to follow; left out where the model is to write plain text (`wants_json`).
    """
    asked = asked_of(settings, role)
    conversation = (("user", messages),) if isinstance(messages, str) else tuple(messages)
    return Request(
        conversation, asked.max_tokens, asked.temperature, asked.model, purpose, schema if wants_json(asked) else None,
        role, draw, asked.extra,
    )  # fmt: skip


def wants_json(asked: Asked) -> bool:
    """Whether prompts ask for JSON. A model on this machine is held to no form, and small ones keep numbered lines
    better; so `auto` is text there."""
    return asked.json_mode != "text" and not (asked.json_mode == "auto" and asked.kind == "local")


def object_schema(**fields: Mapping[str, Any]) -> dict[str, Any]:
    """JSON schema of an object in which every field is required, as OpenAI's strict mode wants it."""
    return {
        "type": "object", "properties": fields, "required": list(fields), "additionalProperties": False,
    }  # fmt: skip


TEXT: dict[str, Any] = {"type": "string"}
FLAG: dict[str, Any] = {"type": "boolean"}


def list_schema(item: Mapping[str, Any]) -> dict[str, Any]:
    """JSON schema of a list."""
    return {"type": "array", "items": item}
