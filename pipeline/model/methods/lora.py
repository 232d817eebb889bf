"""LoRA (Hu et al. 2021, arXiv 2106.09685) and variants of its scale, initialisation and form.

    LoRA      W' = W + (alpha / r) B A, with A random and B zero
    rsLoRA    alpha / sqrt(r) instead (Kalajdzievski 2023, 2312.03732)
    DoRA      W' = m (W + s B A) / |W + s B A|, norms m trained too (Liu et al. 2024, 2402.09353)
    PiSSA     B0 A0 are the r largest singular components of W (Meng et al. 2024, 2404.02948)
    OLoRA     B0 A0 are the first r columns of W = QR (Buyukakyuz 2024, 2406.01775)
    LoRA+     B learns `lora_plus` times as fast as A (Hayou et al. 2024, 2402.12354)

PiSSA and OLoRA train on W - s B0 A0. The saved adapter is for W: s (B A - B0 A0), an update of rank 2r with
A' = [A; A0] and B' = [B, -B0], so stock peft and the merge handle it as any LoRA.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from pipeline.config.methods import METHODS
from pipeline.config.schema import Adapter
from pipeline.model.methods.method import WEIGHTS
from pipeline.model.methods.targets import ALL, check_rank, embedding_names, last_blocks, linear_layers, matching_layers
from pipeline.model.methods.through_peft import ThroughPeft
from pipeline.run.errors import UserError
from pipeline.run.files import read_json

INITS = {"default": True, "pissa": "pissa_niter_16", "olora": "olora"}  # the paper's fast SVD, 16 iterations


class Lora(ThroughPeft):
    """All variants above."""

    def settings(self, model: Any, adapter: Adapter, added: tuple[int, ...]) -> Any:
        from peft import LoraConfig

        targets = check_targets(model, adapter)
        is_meta = next(model.parameters()).device.type == "meta"
        if adapter.init == "olora" and any(type(m).__name__ == "Conv1D" for m in linear_layers(model).values()):
            what = f"olora cannot take apart the transposed weights of {model.config.model_type}"
            raise UserError(what, "adapter.init", "use pissa")
        return LoraConfig(
            r=adapter.r,
            lora_alpha=adapter.alpha,
            lora_dropout=adapter.dropout,
            target_modules=targets,
            layers_to_transform=last_blocks(model, adapter.last_blocks),
            trainable_token_indices={name: list(added) for name in embedding_names(model)} if added else None,
            use_dora=adapter.dora,
            use_rslora=adapter.rslora,
            init_lora_weights=True if is_meta else INITS[adapter.init],
            task_type="CAUSAL_LM",
        )

    def attach(self, model: Any, adapter: Adapter, seed: int, added: tuple[int, ...]) -> Any:
        adapted = super().attach(model, adapter, seed, added)
        if adapter.init != "default":
            adapted.initial_factors = {n: t.detach().clone() for n, t in _factors(adapted).items()}
        return adapted

    def save(self, model: Any, folder: Path, base: str) -> None:
        if not hasattr(model, "initial_factors"):
            super().save(model, folder, base)
            return

        from peft import get_peft_model_state_dict

        tensors = get_peft_model_state_dict(model, save_embedding_layers=False)
        for name, initial in model.initial_factors.items():
            key = name.replace(".default.weight", ".weight")
            sign, dim = (1, 0) if ".lora_A." in name else (-1, 1)
            tensors[key] = torch.cat([tensors[key], sign * initial.to(tensors[key].device)], dim=dim)
        settings = copy.deepcopy(model.peft_config["default"])
        settings.r, settings.init_lora_weights = 2 * settings.r, True
        settings.lora_alpha *= 2**0.5 if settings.use_rslora else 2
        settings.base_model_name_or_path, settings.inference_mode = base, True
        save_file({n: t.cpu().contiguous() for n, t in tensors.items()}, folder / WEIGHTS, metadata={"format": "pt"})
        settings.save_pretrained(folder)

    def groups(self, weights: dict[str, Any], adapter: Adapter) -> list[dict[str, Any]]:
        if adapter.lora_plus == 1:
            return super().groups(weights, adapter)
        b = {name: p for name, p in weights.items() if ".lora_B." in name}
        rest = [p for name, p in weights.items() if name not in b]
        return [{"params": rest, "ratio": 1.0}, {"params": list(b.values()), "ratio": adapter.lora_plus}]

    def updates(self, tensors: dict[str, Any], folder: Path) -> dict[str, Any]:
        # Only B: embeddings of new tokens do not start at zero.
        b = {name: t for name, t in tensors.items() if ".lora_B." in name}
        record = read_json(folder / "suri.json") or {}
        if record.get("adapter", {}).get("init", "default") != "default":  # [B, -B0]
            return {name: t[:, : t.shape[1] // 2] + t[:, t.shape[1] // 2 :] for name, t in b.items()}
        return b


def _factors(model: Any) -> dict[str, Any]:
    return {n: p for n, p in model.named_parameters() if p.requires_grad and (".lora_A." in n or ".lora_B." in n)}


def check_targets(model: Any, adapter: Adapter) -> str | list[str]:
    """`adapter.targets` in the form that peft takes.

    Raises:
        UserError: a target matches no linear layer, the rank is too large, or a full name with last_blocks.
    """
    all_of = "" if adapter.init == "default" else adapter.init
    if adapter.targets == ALL:
        head = model.get_output_embeddings()
        inside = {name: module for name, module in linear_layers(model).items() if module is not head}
        check_rank(adapter.r, inside, all_of)
        # peft selects blocks by number only for targets given by name.
        return sorted({name.split(".")[-1] for name in inside}) if adapter.last_blocks else "all-linear"
    chosen = matching_layers(model, adapter.targets)
    check_rank(adapter.r, chosen, all_of)
    if adapter.last_blocks and (whole := [t for t in adapter.targets if t in chosen]):
        what = f"{whole[0]} names one layer in full, and adapter.last_blocks chooses among blocks"
        raise UserError(what, "adapter.targets", "drop one of the two keys, or give how names end, such as q_proj")
    return list(adapter.targets)


LORA = Lora(METHODS["lora"])
