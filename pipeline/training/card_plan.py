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
    """What each way needs for the longest row (of `prompt.cutoff` tokens until they are counted), and where a card is
    known, which one a run takes. Of models without LLaMA's blocks only whether a row fits, by an estimate.

    The card is `train.gpu_memory`, or that of this machine.
    """
    if planned.fast is None:
        return _estimated(config, planned)
    longest, main = _longest(config, planned), free_memory_bytes()
    ways = ways_of(config)
    peaks = ", ".join(f"{way} {planned.fast.peak(longest, way) / GIB:.2f}" for way in ways)
    shown = [f"at least   GiB of the card for a row of {longest:,} tokens: {peaks}"]
    if "stream" in ways:
        needed = (planned.fast.main_memory("stream", longest) + ROOM) / GIB
        shown.append(f"           stream also needs {needed:.1f} GiB of main memory; {main / GIB:.1f} are free here")
    budget, where = _budget(config)
    if not budget:
        return [*shown, "           train.gpu_memory=8 compares this with a card of 8 GiB"]
    if not torch.cuda.is_available() and config.model.dtype == "auto":
        shown.append("           in float32, the type of this machine; model.dtype=bf16 plans for a card that has it")
    step, _ = pass_tokens(config.train.batch_size, config.prompt.cutoff, planned)
    sizes = longest, step
    shown.append(f"card       {budget / GIB:.1f} GiB ({where}): {_fitting(config, planned.fast, sizes, budget, main)}")
    if config.model.quantize == "none":
        other = config.model_copy(update={"model": config.model.model_copy(update={"quantize": "nf4"})})
        nf4 = plan(other, {"rows": 1, "tokens": 1}).fast
        if nf4 is not None:
            shown.append(f"           model.quantize=nf4: {_fitting(config, nf4, sizes, budget, main)}")
    return shown


def _estimated(config: Config, planned: Plan) -> list[str]:
    """Whether a row fits, without a footprint; nothing where no card is known or nothing is trained."""
    budget, where = _budget(config)
    if not budget or not planned.trained:
        return []
    longest = _longest(config, planned)
    kept, recomputed = planned.one_row_gib(longest)
    is_kept = config.train.checkpointing == "none"
    needed = kept if is_kept else recomputed
    fits = "fits" if needed <= budget / GIB else "does not fit"
    how = "" if is_kept else " with activations recomputed"
    row = f"a row of {longest:,} tokens {fits}: it needs {needed:.2f} GiB{how} (estimate)"
    return [f"card       {budget / GIB:.1f} GiB ({where}): {row}"]


def _budget(config: Config) -> tuple[float, str]:
    """Bytes of the card, 0 if there is none, and where the number is from."""
    if config.train.gpu_memory:
        return config.train.gpu_memory * GIB, "train.gpu_memory"
    if torch.cuda.is_available():
        return float(free_bytes(device())), "free now"
    return 0.0, ""


def _longest(config: Config, planned: Plan) -> int:
    """Tokens of the longest row, or the most that there may be."""
    return planned.longest or config.prompt.cutoff


def _fitting(config: Config, fast: Footprint, sizes: tuple[int, int], budget: float, main: float) -> str:
    """The way that a run would take, with its tokens and its peak.

    Args:
        sizes: tokens of the longest row and of an optimiser step. main: bytes of free main memory.
    """
    (longest, step), ways = sizes, ways_of(config)
    is_asked = len(ways) == 1
    way = ways[0] if is_asked else fastest(fast, longest, budget, main, ways)
    least = min(ways, key=lambda one: fast.peak(longest, one))
    needed, peak = fast.main_memory(least, longest) + ROOM, fast.peak(longest, least)
    is_short = least in ("offload", "stream") and needed > main
    if not way or fast.peak(longest, way) > budget or (is_asked and is_short):
        if is_short and peak <= budget:
            what = f"{least} needs" if is_asked else f"only {least} fits, and it needs"
            return f"{what} {needed / GIB:.1f} GiB of main memory; {main / GIB:.1f} are free here"
        what = f"train.checkpointing={way} does not fit" if is_asked else "no way fits"
        return f"{what}; {peak / GIB:.2f} GiB are needed at least"
    if way == "none" and len(ways) > 1 and _most(fast, "none", budget) < max(longest, min(step, FULL_SPEED)):
        way = "block"
    most = _most(fast, way, budget)
    if way == "offload":
        most = min(most, int((main - ROOM) / fast.main_memory(way, 1)))
    tokens = max(longest, min(step, config.train.micro_tokens or most, _most(fast, way, budget)))
    kept = f", {fast.main_memory(way, tokens) / GIB:.1f} GiB in main memory" if way in ("offload", "stream") else ""
    return f"train.checkpointing={way}, {tokens:,} tokens in a pass, peak {fast.peak(tokens, way) / GIB:.2f} GiB{kept}"


def _most(fast: Footprint, way: str, budget: float) -> int:
    return fast.most_tokens(way, fast.usable(way, budget))
