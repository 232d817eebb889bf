"""The base of a run: what training starts from, and what an adapter of the run is loaded on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pipeline.config.method_rules import spec_of
from pipeline.config.schema import Adapter, Config, Model
from pipeline.model.base import Base, kind_of
from pipeline.model.base.fingerprint import fingerprint
from pipeline.model.load import Blocks, add_tokens, base_shape, context_length, load_base
from pipeline.prompt.any_encoder import AnyEncoder
from pipeline.prompt.stage import encoder_of


@dataclass(frozen=True)
class RunBase:
    """A base with everything that decides how a run loads it and writes its prompts.

    Attributes:
        model, adapter: sections of the config. seed: of weights that the base does not have (`train.seed`).
        files: the base on disk.
    """

    model: Model
    adapter: Adapter
    seed: int
    files: Base
    encoder: AnyEncoder

    @classmethod
    def of(cls, config: Config, files: Base) -> RunBase:
        """The base that a config names.

        Raises:
            UserError: template or tokenizer cannot be read.
        """
        encoder = encoder_of(config.prompt, files.tokenizer, config.model.add_tokens)
        return cls(config.model, config.adapter, config.train.seed, files, encoder)

    @property
    def name(self) -> str:
        """The base in records: a hub id, or the last part of a path."""
        if kind_of(self.model) == "hub":
            return self.model.base
        folder = self.files.unscaled or self.files.folder
        return folder.name if folder else "random weights"

    @property
    def is_float32(self) -> bool:
        """Whether the base is loaded in float32 for every `model.dtype`, since its own weights are trained."""
        return spec_of(self.adapter).float32

    def load(self, stream: Blocks | None = None) -> Any:
        """The model with embeddings for the new tokens, in the type that the method needs.

        Args:
            stream: see `load_base`.

        Raises:
            UserError: as `load_base`.
        """
        model = load_base(self.model, self.files, self.seed, self.is_float32, stream)
        add_tokens(model, self.encoder.tokenizer.size)
        return model

    def fingerprint(self) -> str:
        """Identifies the weights, see `pipeline.model.base.fingerprint`."""
        return fingerprint(self.model, self.files, self.seed)

    def context_length(self) -> int | None:
        """Most tokens of a prompt and its answer, without those of the method; None if the model has no such limit."""
        return context_length(base_shape(self.model, self.files), self.adapter)
