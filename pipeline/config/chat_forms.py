"""Names of `prompt.template` that are chat templates: these render whole conversations, the others single rows."""

from __future__ import annotations

BASE = "base"  # the template that the base ships
BUILT_IN = ("chatml", "gemma", "llama-2", "llama-3", "mistral", "phi-3", "zephyr")
SUFFIX = ".jinja"  # of a file with a template of the user's own


def is_chat(template: str) -> bool:
    """Whether this template renders conversations."""
    return template == BASE or template in BUILT_IN or template.lower().endswith(SUFFIX)
