"""Which ways of `train.checkpointing` fit into a card, for `make plan`."""

from __future__ import annotations

import torch

from pipeline.config.schema import Config
from pipeline.model.memory import free_bytes
from pipeline.model.precision import device
from pipeline.run.free_memory import free_memory_bytes
from pipeline.training.footprint import ROOM, Footprint
from pipeline.training.memory import FULL_SPEED
from pipeline.training.placement import fastest, ways_of
from pipeline.training.plan import GIB, Plan, pass_tokens, plan


def lines(config: Config, planned: Plan) -> list[str]:
    """What each way needs for a row of `prompt.cutoff` tokens, and where a card is known, which one a run takes. Of
    models without LLaMA's blocks only whether a row fits into the card, by an estimate.

    The card is `train.gpu_memory`, or that of this machine.
    """
    if planned.fast is None:
        return _estimated(config, planned)
    cutoff, main = config.prompt.cutoff, free_memory_bytes()
    ways = ways_of(config)
    peaks = ", ".join(f"{way} {planned.fast.peak(cutoff, way) / GIB:.2f}" for way in ways)
    shown = [f"at least   GiB of the card for a row of {cutoff:,} tokens: {peaks}"]
    if "stream" in ways:
        shown.append(
            f"           stream also needs {(planned.fast.main_memory('stream', cutoff) + ROOM) / GIB:.1f} GiB of main "
            f"memory; {main / GIB:.1f} are free here"
        )
    budget, where = _budget(config)
    if not budget:
        return [*shown, "           train.gpu_memory=8 compares this with a card of 8 GiB"]
    if not torch.cuda.is_available() and config.model.dtype == "auto":
        shown.append("           in float32, the type of this machine; model.dtype=bf16 plans for a card that has it")
    step, _ = pass_tokens(config.train.batch_size, cutoff, planned)
    shown.append(f"card       {budget / GIB:.1f} GiB ({where}): {_fitting(config, planned.fast, step, budget, main)}")
    if config.model.quantize == "none":
        other = config.model_copy(update={"model": config.model.model_copy(update={"quantize": "nf4"})})
        nf4 = plan(other, {"rows": 1, "tokens": 1}).fast
        if nf4 is not None:
            shown.append(f"           model.quantize=nf4: {_fitting(config, nf4, step, budget, main)}")
    return shown


def _estimated(config: Config, planned: Plan) -> list[str]:
    """Whether a row fits, without a footprint; nothing where no card is known or nothing is trained."""
    budget, where = _budget(config)
    if not budget or not planned.trained:
        return []
    kept, recomputed = planned.one_row_gib(config.prompt.cutoff)
    is_kept = config.train.checkpointing == "none"
    needed = kept if is_kept else recomputed
    fits = "fits" if needed <= budget / GIB else "does not fit"
    how = "" if is_kept else " with activations recomputed"
    row = f"a row of {config.prompt.cutoff:,} tokens {fits}: it needs {needed:.2f} GiB{how} (estimate)"
    return [f"card       {budget / GIB:.1f} GiB ({where}): {row}"]


def _budget(config: Config) -> tuple[float, str]:
    """Bytes of the card, 0 if there is none, and where the number is from."""
    if config.train.gpu_memory:
        return config.train.gpu_memory * GIB, "train.gpu_memory"
    if torch.cuda.is_available():
        return float(free_bytes(device())), "free now"
    return 0.0, ""


def _fitting(config: Config, fast: Footprint, step: int, budget: float, main: float) -> str:
    """The way that a run would take, with its tokens and its peak.

    Args:
        step: tokens of an optimiser step. main: bytes of free main memory.
    """
    cutoff, ways = config.prompt.cutoff, ways_of(config)
    way = ways[0] if len(ways) == 1 else fastest(fast, cutoff, budget, main, ways)
    if not way or fast.peak(cutoff, way) > budget:
        least = min(ways, key=lambda one: fast.peak(cutoff, one))
        needed, peak = fast.main_memory(least, cutoff) + ROOM, fast.peak(cutoff, least)
        if needed > main and peak <= budget:
            here = f"{main / GIB:.1f} are free here"
            return f"only {least} fits, and it needs {needed / GIB:.1f} GiB of main memory; {here}"
        return f"no way fits; {peak / GIB:.2f} GiB are needed at least"
    if way == "none" and len(ways) > 1 and _most(fast, "none", budget) < max(cutoff, min(step, FULL_SPEED)):
        way = "block"
    most = _most(fast, way, budget)
    if way == "offload":
        most = min(most, int((main - ROOM) / fast.main_memory(way, 1)))
    tokens = max(cutoff, min(step, config.train.micro_tokens or most, _most(fast, way, budget)))
    kept = f", {fast.main_memory(way, tokens) / GIB:.1f} GiB in main memory" if way in ("offload", "stream") else ""
    return f"train.checkpointing={way}, {tokens:,} tokens in a pass, peak {fast.peak(tokens, way) / GIB:.2f} GiB{kept}"


def _most(fast: Footprint, way: str, budget: float) -> int:
    return fast.most_tokens(way, fast.usable(way, budget))
