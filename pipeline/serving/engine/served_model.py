"""A model as the server offers it: its name, and how conversations become its prompt."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.prompt.any_encoder import AnyEncoder
from pipeline.serving.engine.request import Kind


@dataclass(frozen=True)
class ServedModel:
    """One entry of `/v1/models`.

    Attributes:
        name: `base`, the run's name for its export, or an adapter's name in the store.
        encoder: with the template of the training, for prompts. end_ids: each ends an answer.
        context: most tokens of prompt and answer.
        note: empty, or what a user should know, such as that the export is marked unfinished.
    """

    name: str
    kind: Kind
    encoder: AnyEncoder
    end_ids: frozenset[int]
    context: int
    note: str = ""
