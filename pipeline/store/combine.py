"""Combines several LoRAs into one: a weighted sum of their updates.

Adapter i adds U_i = s_i B_i A_i to a layer, with s_i = alpha/r (rsLoRA: alpha/sqrt(r)), A_i (r_i, in) and
B_i (out, r_i). The target is U = sum of w_i U_i.

    cat    A = [w_1 s_1 A_1; w_2 s_2 A_2; ...], B = [B_1, B_2, ...]: B A = U exactly, of rank sum of r_i
    svd    the best approximation of U in a given rank (Eckart-Young). With the thin QR decompositions B = Q R and
           A' = P T, U = Q (R T') P', so only R T', of the size of the ranks, is decomposed
    ties   keeps the largest entries of each U_i (a share of `density`), of these the ones with the sign of their sum
           over i (U_i is negated for a negative w_i), and takes their weighted mean (Yadav et al. 2023, arXiv
           2306.01708); cut to the rank by svd
    dare   keeps a random share `density` of each U_i, divided by it; weighted sum (Yu et al. 2024, arXiv 2311.03099);
           cut to the rank by svd

peft's `linear` is not offered: it sums A and B separately, which gives sum_ij sqrt(w_i w_j) B_i A_j with cross terms.
peft's `add_weighted_adapter` is not used: its scale is wrong where the first adapter is an rsLoRA (peft 0.21.2 copies
`use_rslora` to the result). For plain LoRAs both give the same (tested).
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from peft import LoraConfig
from peft.utils.merge_utils import dare_linear, ties
from peft.utils.other import get_pattern_key
from safetensors.torch import load_file, save_file

from pipeline.model.adapter import WEIGHTS
from pipeline.model.adapter_folder import copy_companions
from pipeline.model.card import CARD, combined_card
from pipeline.model.precision import device
from pipeline.run.errors import UserError
from pipeline.run.files import write_text
from pipeline.run.progress import bar
from pipeline.store.folder import Store
from pipeline.store.load import PROMPT_RULES, write_record
from pipeline.store.untrusted import check_numbers, inspect

How = Literal["cat", "svd", "ties", "dare"]
HOWS = get_args(How)
FACTOR = re.compile(r"base_model\.model\.(.+)\.lora_([AB])\.weight")
SEED = 42  # of what `dare` drops
Factors = tuple[torch.Tensor, torch.Tensor]


def combine(
    store: Store, name: str, shares: Sequence[tuple[str, float]], how: How, rank: int, density: float, replace: bool
) -> dict[str, Any]:
    """Stores a weighted sum of stored LoRAs as `name`; returns the key `combined` of its record.

    Args:
        shares: (name, weight) of each; adapters of weight 0 are ignored. rank: of svd, ties and dare; 0 = the largest
            among the adapters.

    Raises:
        UserError: different bases, templates, prompt rules or tokenizers; not plain LoRAs; all weights 0, or a sum
            of 0; a taken name.
    """
    store.check_free(name, replace)
    given = ", ".join(f"{part}={weight:g}" for part, weight in shares)
    shares = [(part, weight) for part, weight in shares if weight]
    if not shares:
        raise UserError(f"every weight is 0: {given}", "COMBINE", "give some adapter a weight other than 0")
    records = [_record(store, part) for part, _ in shares]
    _check_same(shares, records)
    layers = [_layers(part, store.folder(part)) for part, _ in shares]
    torch.manual_seed(SEED)
    modules = sorted({module for part in layers for module in part})
    combined: dict[str, Factors] = {}
    left = whole = 0.0
    for module in bar(modules, what=f"combining ({how})", unit="layer"):
        parts = [(w, *part[module]) for (_, w), part in zip(shares, layers, strict=True) if module in part]
        limit = rank or max(part[module][0].shape[0] for part in layers if module in part)
        a, b, lost, size = _sum(parts, how, limit, density)
        combined[module] = (a, b)
        left, whole = left + lost, whole + size
    if not any(a.any() and b.any() for a, b in combined.values()):
        fix = "raise DENSITY, or choose other weights"
        raise UserError(f"the combined adapter is 0 in every layer ({given}, by {how})", "COMBINE", fix)
    about: dict[str, Any] = {"of": dict(shares), "how": how, "kept": 1 - left / whole if whole else 1.0}
    if how in ("ties", "dare"):
        about["density"] = density
    with store.writing(name, replace) as folder:
        first = store.folder(shares[0][0])
        _save(folder, combined, inspect(first))
        copy_companions(first, folder)
        write_text(folder / CARD, combined_card(name, dict(shares), records[0]["base"]["name"]))
        inspect(folder)
        check_numbers(folder)
        same = {key: records[0][key] for key in ("template", "prompt", "tokenizer", "end_id", "base")}
        count = sum(a.numel() + b.numel() for a, b in combined.values())
        ranks = max(a.shape[0] for a, _ in combined.values())
        own = {"method": "lora", "rank": ranks, "trained_parameters": count, "combined": about, "results": {}}
        write_record(folder, {**same, **own})
    return about


def _record(store: Store, name: str) -> dict[str, Any]:
    record = store.record(name)
    config = inspect(store.folder(name))
    if config.get("peft_type") != "LORA" or config.get("use_dora"):
        what = f"{name} is not a plain LoRA but {record['method']}, and only plain LoRAs can be added up"
        raise UserError(what, str(store.folder(name)), "combine LoRAs")
    return record


def _check_same(shares: Sequence[tuple[str, float]], records: Sequence[dict[str, Any]]) -> None:
    """Raises:
    UserError: naming the first difference between the first adapter and another.
    """
    first = records[0]
    for (name, _), record in zip(shares, records, strict=True):
        for what, mine, theirs in (
            ("bases", first["base"]["hash"][:12], record["base"]["hash"][:12]),
            ("tokenizers", first["tokenizer"], record["tokenizer"]),
            ("templates", first["template"]["hash"], record["template"]["hash"]),
            *(
                (f"values of prompt.{rule}", first["prompt"].get(rule), record["prompt"].get(rule))
                for rule in PROMPT_RULES
            ),
        ):
            if mine != theirs:
                difference = f"{shares[0][0]} and {name} have different {what} ({mine} and {theirs})"
                raise UserError(difference, "the adapter store", "combine adapters that were trained alike")


def _layers(name: str, folder: Path) -> dict[str, Factors]:
    """(s A, B) of each layer, in float32 on the device.

    Raises:
        UserError: the file holds other tensors than A and B, such as new tokens.
    """
    config = inspect(folder)
    patterns = config.get("alpha_pattern") or {}
    factors: dict[str, dict[str, torch.Tensor]] = {}
    for key, tensor in load_file(folder / WEIGHTS).items():
        match = FACTOR.fullmatch(key)
        if not match:
            raise UserError(f"{name} holds more than a LoRA: {key}", str(folder), "combine plain LoRAs")
        factors.setdefault(match[1], {})[match[2]] = tensor.to(device(), torch.float32)
    layers = {}
    for module, pair in factors.items():
        if pair.keys() != {"A", "B"} or pair["A"].shape[0] != pair["B"].shape[1]:
            raise UserError(
                f"{name}: the sizes of the two matrices of {module} do not fit", str(folder), "train it again"
            )
        rank = pair["A"].shape[0]
        alpha = patterns.get(get_pattern_key(patterns, module), config.get("lora_alpha", 8))
        scale = alpha / rank**0.5 if config.get("use_rslora") else alpha / rank
        layers[module] = (scale * pair["A"], pair["B"])
    return layers


def _sum(
    parts: Sequence[tuple[float, torch.Tensor, torch.Tensor]], how: How, rank: int, density: float
) -> tuple[torch.Tensor, torch.Tensor, float, float]:
    """A and B of one layer; squared norm of the target that the rank loses, and the whole squared norm.

    Args:
        parts: (w, s A, B) of each adapter with this layer.
    """
    if how in ("cat", "svd"):
        a = torch.cat([w * a for w, a, _ in parts])
        b = torch.cat([b for _, _, b in parts], dim=1)
        if how == "cat":
            return a, b, 0.0, 1.0
        q, r = torch.linalg.qr(b)
        p, t = torch.linalg.qr(a.T)
        left, values, right = torch.linalg.svd(r @ t.T, full_matrices=False)
        left, right = q @ left, right @ p.T
    else:
        # The sign of w goes into the update, since `ties` compares signs before it applies weights.
        updates = [b @ a if w > 0 else -(b @ a) for w, a, b in parts]
        weights = torch.tensor([abs(w) for w, _, _ in parts], device=updates[0].device)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The density")  # of 1
            target = (ties if how == "ties" else dare_linear)(updates, weights, density)
        left, values, right = torch.linalg.svd(target, full_matrices=False)
    root = values[:rank].sqrt()
    a, b = root[:, None] * right[:rank], left[:, :rank] * root
    return a, b, float(values[rank:].square().sum()), float(values.square().sum())


def _save(folder: Path, factors: dict[str, Factors], like: dict[str, Any]) -> None:
    """Writes PEFT's format with a scale of 1 in every layer. like: adapter config that names the base."""
    ranks = {module: a.shape[0] for module, (a, _) in factors.items()}
    largest = max(ranks.values())
    others = {module: rank for module, rank in ranks.items() if rank != largest}
    LoraConfig(
        r=largest, lora_alpha=largest, rank_pattern=others, alpha_pattern=dict(others), target_modules=sorted(factors),
        base_model_name_or_path=like.get("base_model_name_or_path"), revision=like.get("revision"),
        task_type="CAUSAL_LM", inference_mode=True,
    ).save_pretrained(folder)  # fmt: skip
    tensors = {}
    for module, (a, b) in factors.items():
        tensors[f"base_model.model.{module}.lora_A.weight"] = a.contiguous().cpu()
        tensors[f"base_model.model.{module}.lora_B.weight"] = b.contiguous().cpu()
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
