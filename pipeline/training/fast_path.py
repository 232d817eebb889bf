"""Chooses how a run's rows go through the model: as packs where the model can take them, else padded.

Packs are used only where a self-check shows that they give the loss and gradients of the padded rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any

import torch

from pipeline.config.method_rules import spec_of
from pipeline.config.schema import Config, Train
from pipeline.model.load import dtype_name
from pipeline.model.packed.cuda_graph import SAMPLE_PACKS, CudaGraphs
from pipeline.model.packed.model import PackedModel
from pipeline.model.packed.support import NotPackable
from pipeline.prompt.pack import Pack, Packer
from pipeline.prompt.tokens import Tokens
from pipeline.run.errors import UserError, one_line
from pipeline.run.progress import say
from pipeline.training import self_check
from pipeline.training.memory import choose_micro_tokens, choose_packed, to_come
from pipeline.training.micro_batches import Packed, Plain
from pipeline.training.ranks import smallest
from pipeline.training.schedule import rows_of

# Parameters times tokens of a pass. One of 30 blocks starts some thousand kernels, which took 140 ms where an H200
# computes 2e13 of these in as long (docs/benchmarks.md).
LAUNCH_BOUND = 1.2e13


def open_path(
    config: Config, model: Any, tokens: Tokens, leading: Sequence[Sequence[int]], accelerator: Any,
    state: dict[str, Any], weights: Sequence[torch.Tensor],
) -> Packed | Plain:  # fmt: skip
    """The fast path where the model can take it and it proves equal to the plain one on some rows, else the plain one.

    Args:
        state: of a checkpoint, or with zeros: `micro_tokens` and `recompute` as they were chosen then.

    Raises:
        UserError: the base is to be in fp8, and that cannot be; or not even the longest row fits into memory.
    """
    settings = config.train
    reserve = to_come(weights, moments=not state["step"])
    given = config, model, tokens, accelerator, weights, state, reserve
    path = (_proven(*given, leading) if settings.fast else None) or _plain(*given)
    agree(path, accelerator)
    if isinstance(path, Packed) and _wants_graphs(config, path.fast, tokens, accelerator):
        path.graphs = CudaGraphs(path.fast, weights, _first_packs(path.packer, settings))
    return path


def agree(path: Packed | Plain, accelerator: Any) -> None:
    """All ranks take the smallest size of packs, and compute blocks again where any of them does: a checkpoint holds
    one size, and a resumed run cuts up its steps as the run before did. To be called by all ranks at once."""
    micro_tokens, kept = smallest(accelerator, [path.micro_tokens, int(not path.recompute)])
    if not kept and isinstance(path, Packed):
        path.keeps_less()
    path.micro_tokens = micro_tokens


def _proven(
    config: Config, model: Any, tokens: Tokens, accelerator: Any, weights: Sequence[torch.Tensor],
    state: dict[str, Any], reserve: int, leading: Sequence[Sequence[int]],
) -> Packed | None:  # fmt: skip
    """The fast path, or None where the model cannot take it or it differs from the plain one."""
    told, gpu = accelerator.is_main_process, accelerator.device.type == "cuda"
    try:
        slow = spec_of(config.adapter).never_packed
        if slow:
            raise NotPackable(slow)
        packed = _packed(config, model, tokens, leading, accelerator, state, reserve)
        plain = Plain(model, tokens, accelerator, int(tokens.lengths.max()))
        if self_check.is_equal(packed, plain, config, weights, told):
            if gpu and not packed.fast.uses_kernels:
                packed.strict = self_check.repeats(packed, int(tokens.lengths.argmax()), weights, told)
            return packed
    except (torch.cuda.OutOfMemoryError, UserError):
        raise
    # A model of another build may raise anything, so may a kernel on a card without room for it, and so may a
    # mistake of ours; all are said.
    except Exception as error:
        why = str(error) if isinstance(error, NotPackable) else f"{type(error).__name__}: {error}"
        why = one_line(why)
        if config.model.quantize == "fp8":
            raise UserError(f"no fp8: {why}", "model.quantize", "set model.quantize=none or nf4") from None
        say(f"train: the plain path is used: {why}") if told else None
    for weight in weights:
        weight.grad = None
    if model.is_gradient_checkpointing:
        model.gradient_checkpointing_disable()
    return None


def _plain(
    config: Config, model: Any, tokens: Tokens, accelerator: Any, weights: Sequence[torch.Tensor],
    state: dict[str, Any], reserve: int,
) -> Plain:  # fmt: skip
    settings, longest = config.train, int(tokens.lengths.max())
    if settings.checkpointing in ("block", "offload"):
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.enable_input_require_grads()
    with accelerator.autocast():  # what is trained is in float32 and may stand beside frozen weights in bf16
        micro_tokens = state["micro_tokens"] or choose_micro_tokens(model, settings.micro_tokens, longest, reserve)
    path = Plain(model, tokens, accelerator, micro_tokens)
    gpu = accelerator.device.type == "cuda"
    path.strict = gpu and self_check.repeats(path, int(tokens.lengths.argmax()), weights, accelerator.is_main_process)
    return path


def _packed(
    config: Config,
    model: Any,
    tokens: Tokens,
    leading: Sequence[Sequence[int]],
    accelerator: Any,
    state: dict[str, Any],
    reserve: int,
) -> Packed:
    settings, longest = config.train, int(tokens.lengths.max())
    dtype = torch.bfloat16 if dtype_name(config.model) == "bf16" else torch.float32
    fast = PackedModel(model, longest, fp8=config.model.quantize == "fp8", dtype=dtype)
    if settings.checkpointing in ("block", "offload") and not fast.can_recompute:
        raise NotPackable(
            f"train.checkpointing={settings.checkpointing}, and blocks of this model cannot be computed again"
        )
    packed = Packed(fast, tokens, leading, longest)
    packed.offload = settings.checkpointing == "offload"
    packed.micro_tokens, fast.recompute = state["micro_tokens"], state["recompute"]
    if not state["micro_tokens"]:
        step = packed.largest_step(settings.batch_size, accelerator.num_processes)
        wanted = settings.micro_tokens, settings.checkpointing
        packed.micro_tokens, fast.recompute = choose_packed(
            fast, *wanted, longest, step, reserve, accelerator.is_main_process
        )
    return packed


def _wants_graphs(config: Config, fast: PackedModel, tokens: Tokens, accelerator: Any) -> bool:
    """Whether starting kernels one by one would be what a step waits for. The same on every start of a run."""
    settings = config.train
    if not settings.graphs or fast.plain_attention or not fast.blocks or settings.checkpointing == "offload":
        return False
    rows = -(-settings.batch_size // accelerator.num_processes)
    count = min(rows * float(tokens.lengths.mean()), settings.micro_tokens or float("inf"))
    return fast.parameter_count * count < LAUNCH_BOUND


def _first_packs(packer: Packer, settings: Train) -> list[Pack]:
    """Of the first steps, whichever step a run goes on from: forms are the same on every start."""
    steps = (rows_of(n, len(packer.tokens), settings) for n in range(SAMPLE_PACKS))
    return list(islice((pack for rows in steps for pack in packer.packs(rows)), SAMPLE_PACKS))


def halve(path: Packed | Plain, longest: int, step: int, auto: bool) -> None:
    """Half as many tokens at once, after the card's memory did not suffice; where that cannot be, blocks keep less.

    auto: whether what blocks keep may be chosen.

    Raises:
        UserError: the longest row by itself does not fit.
    """
    torch.cuda.empty_cache()
    if path.micro_tokens <= longest:
        if auto and isinstance(path, Packed) and path.keeps_less():
            say(f"train: step {step + 1}: out of memory; going on with blocks computed again")
            return
        fix = "set train.checkpointing=block, model.quantize=nf4, or lower prompt.cutoff"
        raise UserError(f"step {step + 1}: the longest row, {longest} tokens, does not fit into the card", "train", fix)
    path.micro_tokens = max(longest, path.micro_tokens // 2)
    say(f"train: step {step + 1}: out of memory; going on with at most {path.micro_tokens:,} tokens at once")
