"""The types in which a model computes: those that the config may name, and those that the card of this process has."""

from __future__ import annotations

import os

import torch

from pipeline.config.schema import Model
from pipeline.run.errors import UserError

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
BYTES = {"bf16": 2, "fp16": 2, "fp32": 4}  # of a number
VOLTA, AMPERE, HOPPER = (7, 0), (8, 0), (9, 0)  # compute capabilities: the first with fp16, bf16 and fp8 matrix units


def dtype_name(model: Model) -> str:
    """`bf16`, `fp16` or `fp32`; `auto` is `card_dtype` on a GPU, fp32 on a CPU."""
    if model.dtype != "auto":
        return model.dtype
    return card_dtype(torch.cuda.get_device_capability()) if torch.cuda.is_available() else "fp32"


def card_dtype(capability: tuple[int, int]) -> str:
    """The type in which a card's matrix units compute: bf16 from Ampere on (8.0); fp16 on Volta and Turing (7.0, 7.5),
    which only emulate bf16, slowly; fp32 on cards before, which have no such units."""
    return "bf16" if capability >= AMPERE else "fp16" if capability >= VOLTA else "fp32"


def check_card(model: Model) -> None:
    """Checks, before anything is loaded, that the card can compute in `model.dtype` and with `model.quantize`.

    Raises:
        UserError: fp8 or fp16 on a card without it, or on none; bf16 on a card without it; fp8 together with fp16.
    """
    capability = torch.cuda.get_device_capability() if torch.cuda.is_available() else None
    card = "there is no GPU here"
    if capability:
        card = f"{torch.cuda.get_device_name()} has compute capability {capability[0]}.{capability[1]}"
    if model.dtype == "fp16" and (capability or (0, 0)) < VOLTA:
        fix = "set model.dtype=auto, which takes the fastest type of this machine"
        raise UserError(f"fp16 needs a Volta card or newer (7.0): {card}", "model.dtype", fix)
    if model.dtype == "bf16" and capability and capability < AMPERE:
        message = f"bf16 needs an Ampere card or newer (8.0): {card}"
        raise UserError(message, "model.dtype", "set model.dtype=auto or fp16")
    if model.quantize == "fp8" and (capability or (0, 0)) < HOPPER:
        other = "set model.quantize=none, or nf4 when memory is short"
        raise UserError(f"fp8 needs a Hopper card or newer (9.0): {card}", "model.quantize", other)
    if model.quantize == "fp8" and model.dtype == "fp16":
        what = "products in fp8 have results in bf16 on this card, not in fp16"
        raise UserError(what, "model.quantize", "set model.dtype=auto, or model.quantize=none")


def device() -> torch.device:
    """The card of this process, or the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu")
