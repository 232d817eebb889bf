"""Models in memory for the server: a base that mixes adapters by request, and models with a batch for each."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.model import adapter as adapters
from pipeline.model.load import context_length
from pipeline.model.methods.through_peft import add_adapter
from pipeline.model.packed.support import max_length_of_fixed_rotation
from pipeline.run.errors import one_line
from pipeline.serving.engine.batch import Batch
from pipeline.serving.engine.decoder import Decoder, NotServable, decoder_of
from pipeline.serving.engine.mixed_linear import Part, mix, take_parts, without_lora
from pipeline.serving.engine.shared_copy import shared_copy

NO_LIMIT = 1 << 20  # tokens, for models without a limit of their positions


@dataclass
class LoadedBase:
    """A base while adapters are added to it; `batches` ends that.

    Attributes:
        parts: of the adapters that are mixed. separate: decoders of the others, which share the base's weights.
    """

    model: Any
    parts: dict[str, dict[str, Part]] = field(default_factory=dict)
    separate: dict[str, Decoder] = field(default_factory=dict)

    def add(self, name: str, folder: Path, is_mixable: bool) -> None:
        """Adds a checked adapter under the name of a served model.

        Raises:
            UserError: it does not fit the base. NotServable: the engine cannot run it.
        """
        if is_mixable:
            dtype = next(p.dtype for p in self.model.parameters() if p.is_floating_point())
            try:
                self.parts[name] = take_parts(add_adapter(self.model, folder, "default", name), "default", dtype)
            except ValueError as error:
                raise NotServable(one_line(error)) from None
            finally:
                self.model = without_lora(self.model)
            return
        try:
            alone = adapters.load(shared_copy(self.model, folder), folder)
        except (TypeError, RuntimeError, AttributeError) as error:  # weights in 4 or 8 bits that cannot be shared
            raise NotServable(f"its base cannot be shared: {one_line(error, 200)}") from None
        self.separate[name] = decoder_of(alone)

    def batches(self, own: str) -> dict[str, tuple[Batch, int | None]]:
        """Batch and number of the adapter, by the names of the served models. own: the name of the base alone.

        Raises:
            NotServable: the engine cannot run the base.
        """
        self.model.requires_grad_(False)
        rows = mix(self.model, list(self.parts.values())) if self.parts else None
        decoder = decoder_of(self.model)
        batch = Batch(decoder, rows, context_of(decoder))
        routes: dict[str, tuple[Batch, int | None]] = {own: (batch, None)}
        routes |= {name: (batch, number) for number, name in enumerate(self.parts)}
        return routes | {name: (Batch(alone, None, context_of(alone)), None) for name, alone in self.separate.items()}


def context_of(decoder: Decoder) -> int:
    """Most tokens of prompt and answer."""
    config = decoder.model.config
    # Beyond it, how a row's positions are rotated would depend on the longest row of the batch.
    limit = min(context_length(config) or NO_LIMIT, max_length_of_fixed_rotation(config))
    return int(limit) - decoder.virtual
