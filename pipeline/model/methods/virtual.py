"""Virtual tokens in front of every row: trained keys and values, or trained embeddings.

prefix    in each block, keys [P_k; K] and values [P_v; V] (Li and Liang 2021, arXiv 2101.00190)
prompt    the input is [P; E(tokens)], P initialised with embeddings of random tokens (Lester et al. 2021, 2104.08691)
ptuning   the same, with P = MLP(Q) in training (Liu et al. 2021, 2103.10385); P is saved
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from pipeline.config.methods import METHODS
from pipeline.config.schema import Adapter
from pipeline.model.load import context_length
from pipeline.model.methods import start
from pipeline.model.methods.through_peft import ThroughPeft, try_forward
from pipeline.run.errors import UserError


class Virtual(ThroughPeft):
    """Base class of the three. At step 0 they differ from the base, since the virtual tokens are attended to."""

    def attach(self, model: Any, adapter: Adapter, seed: int, added: tuple[int, ...]) -> Any:
        most = context_length(model.config)
        if most and adapter.virtual_tokens >= most:
            what = f"{adapter.virtual_tokens} virtual tokens leave no room: the model sees {most}"
            raise UserError(what, "adapter.virtual_tokens", "lower it")
        adapted = super().attach(model, adapter, seed, added)
        if next(model.parameters()).device.type != "meta":
            try_forward(adapted, self.name)
            self.initialise(adapted, seed)
            adapted.initial_hashes = start.hashes(self._saved(adapted))
        return adapted

    def initialise(self, model: Any, seed: int) -> None:
        """Replaces peft's initialisation where that is a bad one."""

    @staticmethod
    def _saved(model: Any) -> dict[str, Any]:
        from peft import get_peft_model_state_dict

        return dict(get_peft_model_state_dict(model, save_embedding_layers=False))

    def save(self, model: Any, folder: Path, base: str) -> None:
        super().save(model, folder, base)
        start.write(folder, model.initial_hashes)

    def updates(self, tensors: dict[str, Any], folder: Path) -> dict[str, Any]:
        return start.changes(tensors, folder)


class Prefix(Virtual):
    def settings(self, model: Any, adapter: Adapter, added: tuple[int, ...]) -> Any:
        from peft import PrefixTuningConfig

        return PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=adapter.virtual_tokens)

    def initialise(self, model: Any, seed: int) -> None:
        """The base's keys and values of random tokens (Li and Liang, section 7.4).

        peft draws numbers of standard deviation 1: on a plain text the loss of SmolLM2-135M is 9.9 with those, 4.4 with
        the keys and values of tokens, 3.0 without a prefix.
        """
        base, table = model.get_base_model(), model.prompt_encoder["default"].embedding.weight
        words = base.get_input_embeddings().weight.shape[0]
        drawn = torch.randint(words, (1, len(table)), generator=torch.Generator().manual_seed(seed))
        with torch.no_grad():
            cache = base(input_ids=drawn.to(model.device), use_cache=True).past_key_values
            pairs = [t[0] for layer in cache.layers for t in (layer.keys, layer.values)]  # (heads, tokens, size)
            prefix = torch.cat([t.transpose(0, 1).flatten(1) for t in pairs], dim=1)
            if prefix.shape == table.shape:  # not where blocks differ in their heads
                table.copy_(prefix)


class Prompt(Virtual):
    def settings(self, model: Any, adapter: Adapter, added: tuple[int, ...]) -> Any:
        from peft import PromptTuningConfig, PromptTuningInit

        is_meta = next(model.parameters()).device.type == "meta"
        init = PromptTuningInit.RANDOM if is_meta else PromptTuningInit.SAMPLE_VOCAB
        tokens = adapter.virtual_tokens
        return PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=tokens, prompt_tuning_init=init)


class Ptuning(Virtual):
    def settings(self, model: Any, adapter: Adapter, added: tuple[int, ...]) -> Any:
        from peft import PromptEncoderConfig

        size = model.config.hidden_size
        tokens = adapter.virtual_tokens
        return PromptEncoderConfig(task_type="CAUSAL_LM", num_virtual_tokens=tokens, encoder_hidden_size=size)


PREFIX, PROMPT, PTUNING = Prefix(METHODS["prefix"]), Prompt(METHODS["prompt"]), Ptuning(METHODS["ptuning"])
