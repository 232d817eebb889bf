"""Low-rank updates (Hu et al. 2021, arXiv 2106.09685) and what changes their scale, their start or their form.

    LoRA      W' = W + (alpha / r) B A, with A random and B zero
    rsLoRA    alpha / sqrt(r) instead (Kalajdzievski 2023, 2312.03732)
    DoRA      W' = m (W + s B A) / |W + s B A|, columns' norms m trained too (Liu et al. 2024, 2402.09353)
    PiSSA     B A starts as the r largest singular parts of W, which W gives away (Meng et al. 2024, 2404.02948)
    OLoRA     the same with the first r columns of W = QR (Buyukakyuz 2024, 2406.01775)
    LoRA+     B learns `lora_plus` times as fast as A (Hayou et al. 2024, 2402.12354)

PiSSA and OLoRA train on W - s B0 A0. What is saved is for W itself: s (B A - B0 A0), an update of rank 2r with
A' = [A; A0] and B' = [B, -B0], so stock peft and the merge need to know nothing of it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.config.methods import METHODS
from pipeline.config.schema import Adapter
from pipeline.model.methods.method import WEIGHTS
from pipeline.model.methods.targets import ALL, check_rank, last_blocks, linear_layers, named, tables
from pipeline.model.methods.through_peft import ThroughPeft
from pipeline.run.errors import UserError

STARTS = {"default": True, "pissa": "pissa_niter_16", "olora": "olora"}  # the paper's fast SVD, 16 rounds


class Lora(ThroughPeft):
    """See the formulas above."""

    def settings(self, model: Any, adapter: Adapter, added: tuple[int, ...]) -> Any:
        from peft import LoraConfig

        targets = check_targets(model, adapter)
        empty = next(model.parameters()).device.type == "meta"
        if adapter.init == "olora" and any(type(m).__name__ == "Conv1D" for m in linear_layers(model).values()):
            what = f"olora cannot take apart the transposed weights of {model.config.model_type}"
            raise UserError(what, "adapter.init", "use pissa")
        return LoraConfig(
            r=adapter.r,
            lora_alpha=adapter.alpha,
            lora_dropout=adapter.dropout,
            target_modules=targets,
            layers_to_transform=last_blocks(model, adapter.last_blocks),
            trainable_token_indices={name: list(added) for name in tables(model)} if added else None,
            use_dora=adapter.dora,
            use_rslora=adapter.rslora,
            init_lora_weights=True if empty else STARTS[adapter.init],
            task_type="CAUSAL_LM",
        )

    def attach(self, model: Any, adapter: Adapter, seed: int, added: tuple[int, ...]) -> Any:
        adapted = super().attach(model, adapter, seed, added)
        if adapter.init != "default":
            adapted.started_with = {n: t.detach().clone() for n, t in _factors(adapted).items()}
        return adapted

    def save(self, model: Any, folder: Path, base: str) -> None:
        if not hasattr(model, "started_with"):
            super().save(model, folder, base)
            return
        import copy

        import torch
        from peft import get_peft_model_state_dict
        from safetensors.torch import save_file

        tensors = get_peft_model_state_dict(model, save_embedding_layers=False)
        for name, first in model.started_with.items():
            place = name.replace(".default.weight", ".weight")
            sign, dim = (1, 0) if ".lora_A." in name else (-1, 1)
            tensors[place] = torch.cat([tensors[place], sign * first.to(tensors[place].device)], dim=dim)
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
        # New tokens start at the mean of the others and not at zero: they do not show whether anything was learnt.
        b = {name: t for name, t in tensors.items() if ".lora_B." in name}
        from pipeline.run.files import read_json

        made = read_json(folder / "suri.json") or {}
        if made.get("adapter", {}).get("init", "default") != "default":  # [B, -B0]
            return {name: t[:, : t.shape[1] // 2] + t[:, t.shape[1] // 2 :] for name, t in b.items()}
        return b


def _factors(model: Any) -> dict[str, Any]:
    return {n: p for n, p in model.named_parameters() if p.requires_grad and (".lora_A." in n or ".lora_B." in n)}


def check_targets(model: Any, adapter: Adapter) -> str | list[str]:
    """The targets as peft wants them.

    Raises:
        UserError: a target that no linear layer has, a rank above the layers' size, or a full name with last_blocks.
    """
    all_of = "" if adapter.init == "default" else adapter.init
    if adapter.targets == ALL:
        head = model.get_output_embeddings()
        inside = {name: module for name, module in linear_layers(model).items() if module is not head}
        check_rank(adapter.r, inside, all_of)
        # peft chooses blocks by number only for targets that are given by name.
        return sorted({name.split(".")[-1] for name in inside}) if adapter.last_blocks else "all-linear"
    chosen = named(model, adapter.targets)
    check_rank(adapter.r, chosen, all_of)
    if adapter.last_blocks and (whole := [t for t in adapter.targets if t in chosen]):
        what = f"{whole[0]} names one layer in full, and adapter.last_blocks chooses among blocks"
        raise UserError(what, "adapter.targets", "drop one of the two keys, or give how names end, such as q_proj")
    return list(adapter.targets)


LORA = Lora(METHODS["lora"])
