"""Virtual tokens in front of every row: learnt keys and values, or learnt embeddings.

prefix    in each block, keys [P_k; K] and values [P_v; V] (Li and Liang 2021, arXiv 2101.00190)
prompt    the input is [P; E(tokens)], P started at embeddings of drawn words (Lester et al. 2021, 2104.08691)
ptuning   the same, with P = MLP(Q) while training (Liu et al. 2021, 2103.10385); what is saved is P
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.config.methods import METHODS
from pipeline.config.schema import Adapter
from pipeline.model.load import context_length
from pipeline.model.methods import start
from pipeline.model.methods.through_peft import ThroughPeft, try_pass
from pipeline.run.errors import UserError


class Virtual(ThroughPeft):
    """Common to the three; they start away from the base, since the virtual tokens are seen from the first step on."""

    def attach(self, model: Any, adapter: Adapter, seed: int, added: tuple[int, ...]) -> Any:
        most = context_length(model.config)
        if most and adapter.virtual_tokens >= most:
            what = f"{adapter.virtual_tokens} virtual tokens leave no room: the model sees {most}"
            raise UserError(what, "adapter.virtual_tokens", "lower it")
        adapted = super().attach(model, adapter, seed, added)
        if next(model.parameters()).device.type != "meta":
            try_pass(adapted, self.name)
            self.begin(adapted, seed)
            adapted.started_at = start.hashed(self._saved(adapted))
        return adapted

    def begin(self, model: Any, seed: int) -> None:
        """Another start than peft's, where that is a bad one."""

    @staticmethod
    def _saved(model: Any) -> dict[str, Any]:
        from peft import get_peft_model_state_dict

        return dict(get_peft_model_state_dict(model, save_embedding_layers=False))

    def save(self, model: Any, folder: Path, base: str) -> None:
        super().save(model, folder, base)
        start.write(folder, model.started_at)

    def updates(self, tensors: dict[str, Any], folder: Path) -> dict[str, Any]:
        return start.changed(tensors, folder)


class Prefix(Virtual):
    def settings(self, model: Any, adapter: Adapter, added: tuple[int, ...]) -> Any:
        from peft import PrefixTuningConfig

        return PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=adapter.virtual_tokens)

    def begin(self, model: Any, seed: int) -> None:
        """The base's own keys and values of drawn words (Li and Liang, section 7.4): the start is a short odd text.

        peft starts with numbers of deviation 1: on a plain text the loss of SmolLM2-135M is 9.9 then, 4.4 with words,
        3.0 by itself.
        """
        import torch

        base, table = model.get_base_model(), model.prompt_encoder["default"].embedding.weight
        words = base.get_input_embeddings().weight.shape[0]
        drawn = torch.randint(words, (1, len(table)), generator=torch.Generator().manual_seed(seed))
        with torch.no_grad():
            cache = base(input_ids=drawn.to(model.device), use_cache=True).past_key_values
            pairs = [t[0] for layer in cache.layers for t in (layer.keys, layer.values)]  # (heads, tokens, size)
            made = torch.cat([t.transpose(0, 1).flatten(1) for t in pairs], dim=1)
            if made.shape == table.shape:  # a base whose blocks differ in their heads keeps peft's start
                table.copy_(made)


class Prompt(Virtual):
    def settings(self, model: Any, adapter: Adapter, added: tuple[int, ...]) -> Any:
        from peft import PromptTuningConfig, PromptTuningInit

        empty = next(model.parameters()).device.type == "meta"
        begin = PromptTuningInit.RANDOM if empty else PromptTuningInit.SAMPLE_VOCAB
        tokens = adapter.virtual_tokens
        return PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=tokens, prompt_tuning_init=begin)


class Ptuning(Virtual):
    def settings(self, model: Any, adapter: Adapter, added: tuple[int, ...]) -> Any:
        from peft import PromptEncoderConfig

        size = model.config.hidden_size
        tokens = adapter.virtual_tokens
        return PromptEncoderConfig(task_type="CAUSAL_LM", num_virtual_tokens=tokens, encoder_hidden_size=size)


PREFIX, PROMPT, PTUNING = Prefix(METHODS["prefix"]), Prompt(METHODS["prompt"]), Ptuning(METHODS["ptuning"])
