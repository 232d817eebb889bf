"""Chooses between packs and padded rows: packs if the model can take them and a self-check passes, else padded rows.

The self-check compares loss and gradients of both on a few rows before the first step.
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
from pipeline.training.memory import bytes_to_reserve, choose_packed, choose_padded
from pipeline.training.micro_batches import MicroBatches, PackedMicroBatches, PaddedMicroBatches
from pipeline.training.processes import minimum
from pipeline.training.schedule import step_rows

# Parameters times tokens of a pass. A pass of 30 blocks launches some thousand kernels, which took 140 ms; an H200
# computes 1.2e13 of these in that time (docs/benchmarks.md). Smaller passes wait for launches.
LAUNCH_BOUND = 1.2e13
RECOMPUTE = ("block", "offload")  # values of `train.checkpointing`


def choose_path(
    config: Config, model: Any, tokens: Tokens, preambles: Sequence[Sequence[int]], accelerator: Any,
    state: dict[str, Any], weights: Sequence[torch.Tensor],
) -> MicroBatches:  # fmt: skip
    """The fast path if the model can take it and the self-check passes, else the plain one.

    Args:
        state: of a checkpoint or `checkpoint.START`. Its `micro_tokens` and `recompute` are used again unless 0.
        weights: that are trained.

    Raises:
        UserError: the base is to be in fp8, and the fast path cannot be used; or the memory is too small.
    """
    reserve = bytes_to_reserve(weights, moments=not state["step"])
    path: MicroBatches | None = None
    if config.train.fast:
        path = _checked_packs(config, model, tokens, preambles, accelerator, state, weights, reserve)
    if path is None:
        path = _padded(config.train, model, tokens, accelerator, state, weights, reserve)
    agree(path, accelerator)
    if isinstance(path, PackedMicroBatches) and _is_launch_bound(config.train, path.fast, tokens, accelerator):
        path.graphs = CudaGraphs(path.fast, weights, _first_packs(path.packer, config.train))
    return path


def agree(path: MicroBatches, accelerator: Any) -> None:
    """All ranks take the smallest `micro_tokens` of any rank, and recompute if any does: a checkpoint holds one value,
    and a resumed run must split its steps like the run before. All ranks must call it."""
    micro_tokens, keeps_all = minimum(accelerator, [path.micro_tokens, int(not path.recompute)])
    if not keeps_all and isinstance(path, PackedMicroBatches):
        path.start_recompute()
    path.micro_tokens = micro_tokens


def _checked_packs(
    config: Config, model: Any, tokens: Tokens, preambles: Sequence[Sequence[int]], accelerator: Any,
    state: dict[str, Any], weights: Sequence[torch.Tensor], reserve: int,
) -> PackedMicroBatches | None:  # fmt: skip
    """The fast path; None if the model cannot take it or it differs from the plain one."""
    verbose = accelerator.is_main_process
    precision = "fp8" if config.model.quantize == "fp8" else dtype_name(config.model)
    try:
        if reason := spec_of(config.adapter).never_packed:
            raise NotPackable(reason)
        packed = _packed(config, model, tokens, preambles, accelerator, state, reserve)
        padded = PaddedMicroBatches(model, tokens, accelerator, int(tokens.lengths.max()))
        rows = step_rows(0, len(tokens), config.train)[: self_check.ROWS]
        if self_check.is_equal(packed, padded, rows, weights, precision, verbose):
            only_kernels = packed.fast.uses_kernels and not packed.fast.plain_attention
            if accelerator.device.type == "cuda" and not only_kernels:
                longest = int(tokens.lengths.argmax())
                packed.is_deterministic = self_check.is_deterministic(packed, longest, weights, verbose)
            return packed
    except (torch.cuda.OutOfMemoryError, UserError):
        raise
    # Models and kernels raise errors of any type; each is printed, and the plain path does without them.
    except Exception as error:
        reason = one_line(str(error) if isinstance(error, NotPackable) else f"{type(error).__name__}: {error}")
        if precision == "fp8":
            fix = "set model.quantize=none or nf4"
            raise UserError(f"fp8 cannot be used: {reason}", "model.quantize", fix) from None
        say(f"train: the plain path is used: {reason}") if verbose else None
    for weight in weights:
        weight.grad = None
    if model.is_gradient_checkpointing:
        model.gradient_checkpointing_disable()
    return None


def _packed(
    config: Config, model: Any, tokens: Tokens, preambles: Sequence[Sequence[int]], accelerator: Any,
    state: dict[str, Any], reserve: int,
) -> PackedMicroBatches:  # fmt: skip
    settings, longest = config.train, int(tokens.lengths.max())
    dtype = torch.bfloat16 if dtype_name(config.model) == "bf16" else torch.float32
    fast = PackedModel(model, longest, fp8=config.model.quantize == "fp8", dtype=dtype)
    if settings.checkpointing in RECOMPUTE and not fast.can_recompute:
        raise NotPackable(
            f"train.checkpointing={settings.checkpointing}, and blocks of this model cannot be recomputed"
        )
    packed = PackedMicroBatches(fast, tokens, preambles, longest)
    packed.offload = settings.checkpointing == "offload"
    packed.micro_tokens, fast.recompute = state["micro_tokens"], state["recompute"]
    if not state["micro_tokens"]:
        step = packed.largest_step(settings.batch_size, accelerator.num_processes)
        wanted = settings.micro_tokens, settings.checkpointing
        packed.micro_tokens, fast.recompute = choose_packed(
            fast, *wanted, longest, step, reserve, accelerator.is_main_process
        )
    return packed


def _padded(
    settings: Train, model: Any, tokens: Tokens, accelerator: Any, state: dict[str, Any],
    weights: Sequence[torch.Tensor], reserve: int,
) -> PaddedMicroBatches:  # fmt: skip
    if settings.checkpointing in RECOMPUTE:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.enable_input_require_grads()
    with accelerator.autocast():  # trained weights in float32 may be next to frozen ones in bf16
        longest = int(tokens.lengths.max())
        micro_tokens = state["micro_tokens"] or choose_padded(model, settings.micro_tokens, longest, reserve)
    padded = PaddedMicroBatches(model, tokens, accelerator, micro_tokens)
    if accelerator.device.type == "cuda":
        row, verbose = int(tokens.lengths.argmax()), accelerator.is_main_process
        padded.is_deterministic = self_check.is_deterministic(padded, row, weights, verbose)
    return padded


def _is_launch_bound(settings: Train, fast: PackedModel, tokens: Tokens, accelerator: Any) -> bool:
    """Whether launching kernels would take longer than computing them. The same on every start of a run."""
    if not settings.graphs or fast.plain_attention or not fast.blocks or settings.checkpointing == "offload":
        return False
    rows = -(-settings.batch_size // accelerator.num_processes)
    count = min(rows * float(tokens.lengths.mean()), settings.micro_tokens or float("inf"))
    return fast.parameter_count * count < LAUNCH_BOUND


def _first_packs(packer: Packer, settings: Train) -> list[Pack]:
    """Packs of the first steps, also for a resumed run: the shapes of graphs are the same on every start."""
    steps = (step_rows(n, len(packer.tokens), settings) for n in range(SAMPLE_PACKS))
    return list(islice((pack for rows in steps for pack in packer.packs(rows)), SAMPLE_PACKS))


def reduce_memory(path: MicroBatches, longest: int, step: int, may_recompute: bool) -> None:
    """After the card ran out of memory: half as many tokens at once, or recomputation if that is not possible.

    Raises:
        UserError: the longest row does not fit by itself.
    """
    torch.cuda.empty_cache()
    if path.micro_tokens <= longest:
        if may_recompute and isinstance(path, PackedMicroBatches) and path.start_recompute():
            say(f"train: step {step + 1}: out of memory; going on with activations recomputed")
            return
        fix = "set train.checkpointing=block, model.quantize=nf4, or lower prompt.cutoff"
        what = f"step {step + 1}: the longest row, {longest} tokens, does not fit into the card's memory"
        raise UserError(what, "train", fix)
    path.micro_tokens = max(longest, path.micro_tokens // 2)
    say(f"train: step {step + 1}: out of memory; going on with at most {path.micro_tokens:,} tokens in one pass")
