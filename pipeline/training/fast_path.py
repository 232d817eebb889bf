"""Chooses between packs and padded rows: packs if the model can take them and a self-check passes, else padded rows.

The self-check compares loss and gradients of both on a few rows before the first step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch

from pipeline.config.schema import Train
from pipeline.kernels import card
from pipeline.model.load import DTYPES
from pipeline.model.packed.cuda_graph import SAMPLE_PACKS, CudaGraphs
from pipeline.model.packed.model import PackedModel
from pipeline.model.packed.support import NotPackable
from pipeline.model.sharded import is_sharded, local
from pipeline.prompt.pack import Pack, Packer
from pipeline.prompt.token_noise import RowNoise
from pipeline.prompt.tokens import Tokens
from pipeline.run.errors import UserError, one_line
from pipeline.run.progress import say
from pipeline.training import self_check
from pipeline.training.loss_scale import LossScale
from pipeline.training.memory import RECOMPUTE, bytes_to_reserve, choose_packed, choose_padded
from pipeline.training.micro_batches import MicroBatches, PackedMicroBatches, PaddedMicroBatches
from pipeline.training.processes import minimum
from pipeline.training.schedule import step_rows

# Parameters times tokens of a pass. A pass of 30 blocks launches some thousand kernels, which took 140 ms; an H200
# computes 1.2e13 of these in that time (docs/benchmarks.md). Smaller passes wait for launches.
LAUNCH_BOUND = 1.2e13
GRAPHLESS = ("offload", "stream")  # values of `train.checkpointing` that copy in the middle of a pass


@dataclass(frozen=True)
class PathInputs:
    """What both paths are made of.

    Attributes:
        tokens, preambles: of the training rows, see `Encoder.preambles`.
        state: of a checkpoint or `checkpoint.START`. Its `micro_tokens` and `recompute` are used again unless 0.
        weights: that are trained.
        scaling: of the run's gradients, in fp16.
    """

    settings: Train
    model: Any
    tokens: Tokens
    preambles: Sequence[Sequence[int]]
    accelerator: Any
    state: dict[str, Any]
    weights: Sequence[torch.Tensor]
    scaling: LossScale

    @property
    def verbose(self) -> bool:
        """Whether this rank prints."""
        return bool(self.accelerator.is_main_process)

    @property
    def longest(self) -> int:
        """Tokens of the longest row."""
        return int(self.tokens.lengths.max())

    @property
    def reserve(self) -> int:
        """Bytes that gradients and moments still need."""
        parts = [local(weight) for weight in self.weights]
        return bytes_to_reserve(parts, "" if self.state["step"] else self.settings.optimizer)

    def is_deterministic(self, path: MicroBatches) -> bool:
        """`self_check.is_deterministic` on the longest row; not asked of a sharded model, whose pass would end in the
        middle."""
        if is_sharded(self.model):
            return False
        row, verbose = int(self.tokens.lengths.argmax()), self.accelerator.is_main_process
        return self_check.is_deterministic(path, row, self.weights, verbose)


def choose_path(inputs: PathInputs, dtype: str, fp8: bool, never_packed: str = "") -> MicroBatches:
    """The fast path if the model can take it and the self-check passes, else the plain one.

    Args:
        dtype: of the arithmetic, `bf16`, `fp16` or `fp32`. fp8: whether the frozen weights are to be in fp8.
        never_packed: why the method excludes packs; empty where it does not.

    Raises:
        UserError: the base is to be in fp8, and the fast path cannot be used; or the memory is too small.
    """
    settings, path = inputs.settings, None
    if settings.fast:
        path = _checked_packs(inputs, dtype, fp8, never_packed)
        path = _of_all_ranks(path, inputs)
    chosen = path or _padded(inputs)
    agree(chosen, inputs.accelerator)
    if path and _is_launch_bound(inputs, path.fast):
        path.graphs = CudaGraphs(path.fast, inputs.weights, _first_packs(path.packer, settings))
    return chosen


def agree(path: MicroBatches, accelerator: Any) -> None:
    """All ranks take the smallest `micro_tokens` of any rank, and recompute if any does: a checkpoint holds one value,
    and a resumed run must split its steps like the run before. All ranks must call it."""
    micro_tokens, keeps_all = minimum(accelerator, [path.micro_tokens, int(not path.recompute)])
    if not keeps_all and isinstance(path, PackedMicroBatches):
        path.start_recompute()
    path.micro_tokens = micro_tokens


def _of_all_ranks(path: PackedMicroBatches | None, inputs: PathInputs) -> PackedMicroBatches | None:
    """Packs if all ranks can take them: ranks deal the rows of a step by what a path computes of each, and they must
    deal alike. All ranks must call it."""
    if minimum(inputs.accelerator, [int(path is not None)])[0]:
        return path
    if path is not None:
        say("train: the plain path is used, as on another rank") if inputs.verbose else None
        _forget_packs(inputs)
    return None


def _checked_packs(inputs: PathInputs, dtype: str, fp8: bool, never_packed: str) -> PackedMicroBatches | None:
    """The fast path; None if the model cannot take it or it differs from the plain one."""
    model, tokens, accelerator, weights = inputs.model, inputs.tokens, inputs.accelerator, inputs.weights
    verbose = inputs.verbose
    try:
        if never_packed:
            raise NotPackable(never_packed)
        packed = _packed(inputs, dtype, fp8)
        padded = PaddedMicroBatches(model, tokens, accelerator, inputs.longest, RowNoise.of(inputs.settings))
        rows = step_rows(0, len(tokens), inputs.settings)[: self_check.ROWS]
        if self_check.is_equal(packed, padded, rows, weights, "fp8" if fp8 else dtype, verbose, inputs.scaling):
            only_kernels = packed.fast.uses_kernels and not packed.fast.plain_attention
            if accelerator.device.type == "cuda" and not only_kernels:
                packed.is_deterministic = inputs.is_deterministic(packed)
            return packed
    except (torch.cuda.OutOfMemoryError, UserError):
        raise
    # Models and kernels raise errors of any type; each is printed, and the plain path does without them.
    except Exception as error:
        reason = one_line(str(error) if isinstance(error, NotPackable) else f"{type(error).__name__}: {error}")
        if fp8:
            fix = "set model.quantize=none or nf4"
            raise UserError(f"fp8 cannot be used: {reason}", "model.quantize", fix) from None
        say(f"train: the plain path is used: {reason}") if verbose else None
    _forget_packs(inputs)
    return None


def _forget_packs(inputs: PathInputs) -> None:
    """Removes what the self-check left in the model."""
    for weight in inputs.weights:
        weight.grad = None
    if inputs.model.is_gradient_checkpointing:
        inputs.model.gradient_checkpointing_disable()


def _packed(inputs: PathInputs, dtype: str, fp8: bool) -> PackedMicroBatches:
    settings, state, accelerator, longest = inputs.settings, inputs.state, inputs.accelerator, inputs.longest
    fast = PackedModel(inputs.model, longest, fp8=fp8, dtype=DTYPES[dtype])
    fast.gradient_scale = inputs.scaling.factor
    if fast.device.type == "cuda" and not card.has_triton(fast.device) and accelerator.is_main_process:
        major, minor = card.capability(fast.device)
        say(f"train: without Triton's kernels, which this card (compute capability {major}.{minor}) cannot run; "
            "their plain versions are used")  # fmt: skip
    if settings.checkpointing in RECOMPUTE and not fast.can_recompute:
        raise NotPackable(
            f"train.checkpointing={settings.checkpointing}, and blocks of this model cannot be recomputed"
        )
    packed = PackedMicroBatches(fast, inputs.tokens, inputs.preambles, longest, RowNoise.of(settings))
    packed.offload = settings.checkpointing == "offload"
    packed.micro_tokens, fast.recompute = state["micro_tokens"], state["recompute"]
    if not state["micro_tokens"]:
        step = packed.largest_step(settings.batch_size, accelerator.num_processes)
        wanted = settings.micro_tokens, settings.checkpointing
        packed.micro_tokens, fast.recompute = choose_packed(
            fast, *wanted, longest, step, inputs.reserve, accelerator.is_main_process
        )
    return packed


def _padded(inputs: PathInputs) -> PaddedMicroBatches:
    settings, model, accelerator = inputs.settings, inputs.model, inputs.accelerator
    if settings.checkpointing in RECOMPUTE:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.enable_input_require_grads()
    with accelerator.autocast():  # trained weights in float32 may be next to frozen ones in bf16
        micro_tokens = inputs.state["micro_tokens"] or choose_padded(
            model, settings.micro_tokens, inputs.longest, inputs.reserve
        )
    padded = PaddedMicroBatches(model, inputs.tokens, accelerator, micro_tokens, RowNoise.of(settings))
    if accelerator.device.type == "cuda":
        padded.is_deterministic = inputs.is_deterministic(padded)
    return padded


def _is_launch_bound(inputs: PathInputs, fast: PackedModel) -> bool:
    """Whether launching kernels would take longer than computing them. The same on every start of a run."""
    settings = inputs.settings
    if not settings.graphs or settings.checkpointing in GRAPHLESS or is_sharded(inputs.model):
        return False
    if fast.plain_attention or not fast.blocks:
        return False
    rows = -(-settings.batch_size // inputs.accelerator.num_processes)
    count = min(rows * float(inputs.tokens.lengths.mean()), settings.micro_tokens or float("inf"))
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
        fix = "set train.checkpointing=block or stream, model.quantize=nf4, or lower prompt.cutoff"
        what = f"step {step + 1}: the longest row, {longest} tokens, does not fit into the card's memory"
        raise UserError(what, "train", fix)
    path.micro_tokens = max(longest, path.micro_tokens // 2)
    say(f"train: step {step + 1}: out of memory; going on with at most {path.micro_tokens:,} tokens in one pass")
