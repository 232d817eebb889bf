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
from pipeline.model.memory import free_bytes
from pipeline.model.packed.cuda_graph import CudaGraphs
from pipeline.model.packed.graph_shape import SAMPLE_PACKS
from pipeline.model.packed.model import PackedModel
from pipeline.model.packed.support import NotPackable
from pipeline.model.precision import DTYPES
from pipeline.model.sharded import is_sharded, local
from pipeline.prompt.pack import Pack
from pipeline.prompt.token_noise import RowNoise
from pipeline.prompt.tokens import Tokens
from pipeline.run.errors import UserError, one_line
from pipeline.run.free_memory import free_memory_bytes
from pipeline.run.progress import say
from pipeline.training import launch_time, self_check
from pipeline.training.footprint import offloaded
from pipeline.training.loss_scale import LossScale
from pipeline.training.memory import RECOMPUTE, bytes_to_reserve, choose_packed, choose_padded, within_main_memory
from pipeline.training.micro_batches import MicroBatches, PackedMicroBatches, PaddedMicroBatches
from pipeline.training.processes import minimum
from pipeline.training.rank_rows import rank_rows
from pipeline.training.schedule import step_rows

GRAPHLESS = ("offload", "stream")  # values of `train.checkpointing` that copy in the middle of a pass


@dataclass(frozen=True)
class PathInputs:
    """What both paths are made of.

    Attributes:
        tokens, preambles: of the training rows, see `Encoder.preambles`.
        state: of a checkpoint or `checkpoint.START`. Its `micro_tokens` and `recompute` are used again unless 0, its
            `graphs` unless None.
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
    if path and settings.graphs and settings.checkpointing not in GRAPHLESS and not is_sharded(inputs.model):
        choose_graphs(inputs, path)
    return chosen


def agree(path: MicroBatches, accelerator: Any) -> None:
    """All ranks take the smallest `micro_tokens` of any rank, and recompute if any does: a checkpoint holds one value,
    and a resumed run must split its steps like the run before. All ranks must call it."""
    micro_tokens, keeps_all = minimum(accelerator, [path.micro_tokens, int(not path.recompute)])
    if not keeps_all and isinstance(path, PackedMicroBatches):
        path.start_recompute()
    path.micro_tokens = micro_tokens


def _of_all_ranks(path: PackedMicroBatches | None, inputs: PathInputs) -> PackedMicroBatches | None:
    """Packs if all ranks can take them: ranks divide the rows of a step by the costs that their path computes, so all
    must have the same path. All ranks must call it."""
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
    # Models and kernels raise errors of any type; each is printed, and the plain path is used.
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
        if packed.offload and fast.device.type == "cuda" and not settings.micro_tokens:
            shape = fast.causal_lm.config
            per_token = shape.num_hidden_layers * offloaded(shape, fast.dtype.itemsize)
            packed.micro_tokens = within_main_memory(
                packed.micro_tokens, longest, per_token, free_memory_bytes(), inputs.verbose
            )
    return packed


def _padded(inputs: PathInputs) -> PaddedMicroBatches:
    settings, model, accelerator = inputs.settings, inputs.model, inputs.accelerator
    if settings.checkpointing in RECOMPUTE:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.enable_input_require_grads()
        if settings.checkpointing == "offload" and inputs.verbose:
            say("train: train.checkpointing=offload is as block on the plain path: activations stay on the card")
    with accelerator.autocast():  # trained weights in float32 may be next to frozen ones in bf16
        micro_tokens = inputs.state["micro_tokens"] or choose_padded(
            model, settings.micro_tokens, inputs.longest, inputs.reserve
        )
    padded = PaddedMicroBatches(model, inputs.tokens, accelerator, micro_tokens, RowNoise.of(settings))
    if accelerator.device.type == "cuda":
        padded.is_deterministic = inputs.is_deterministic(padded)
    return padded


def choose_graphs(inputs: PathInputs, path: PackedMicroBatches) -> None:
    """Has passes recorded as CUDA graphs where they wait for the host, as before where a run resumes: packs for graphs
    are padded, and their sums are rounded in another order. All ranks must call it."""
    world = inputs.accelerator.num_processes
    decided = inputs.state.get("graphs") if inputs.state.get("processes", world) == world else None
    if decided is None:
        decided = _graphs_help(inputs, path)
    path.has_graphs = decided
    if decided and path.fast.can_be_recorded:  # not if the run resumes without a card
        sample, largest = _first_packs(path, inputs), _largest_pack(inputs, path)
        path.graphs = CudaGraphs(path.fast, inputs.weights, sample, largest) if sample else None


def _graphs_help(inputs: PathInputs, path: PackedMicroBatches) -> bool | None:
    """Whether passes of any rank wait for its host, and graphs fit into the memory of all; None where passes cannot be
    recorded. All ranks must call it."""
    found = launch_time.measure(path, _rows_of_rank(0, path, inputs)) if path.fast.can_be_recorded else None
    is_bound, needed, free = found is not None and found.is_bound, 0, 0
    if found is not None and path.fast.device.type == "cuda":
        torch.cuda.empty_cache()
        gradients = sum(w.numel() * w.element_size() for w in inputs.weights)
        needed = found.bytes_of_graphs(_largest_pack(inputs, path), gradients) + inputs.reserve
        free = free_bytes(path.fast.device)
    flags = [int(path.fast.can_be_recorded), int(not is_bound), int(needed <= free)]
    can_be_recorded, none_is_bound, all_fit = minimum(inputs.accelerator, flags)
    if found is not None and inputs.verbose:
        what = f"a pass of {found.tokens:,} tokens takes {found.card * 1e3:,.0f} ms"
        what += f", and the host {found.host * 1e3:,.0f} ms to start its kernels"
        short = f"graphs need {needed / 2**30:.1f} GiB, and {free / 2**30:.1f} are free"
        how = "no CUDA graphs" if none_is_bound else "CUDA graphs" if all_fit else f"no CUDA graphs: {short}"
        say(f"train: {what}: {how}")
    return bool(not none_is_bound and all_fit) if can_be_recorded else None


def _largest_pack(inputs: PathInputs, path: PackedMicroBatches) -> int:
    """About the tokens of a rank's largest pack."""
    step = path.largest_step(inputs.settings.batch_size, inputs.accelerator.num_processes)
    return min(path.micro_tokens, step)


def _rows_of_rank(step: int, path: PackedMicroBatches, inputs: PathInputs) -> list[int]:
    accelerator = inputs.accelerator
    rows = step_rows(step, len(inputs.tokens), inputs.settings)
    return rank_rows(rows, path.costs, accelerator.process_index, accelerator.num_processes)


def _first_packs(path: PackedMicroBatches, inputs: PathInputs) -> list[Pack]:
    """This rank's packs of the first steps, also for a resumed run: graphs have the same shapes on every start."""
    steps = (_rows_of_rank(n, path, inputs) for n in range(SAMPLE_PACKS))
    return list(islice((pack for rows in steps for pack in path.packer.packs(rows)), SAMPLE_PACKS))


def reduce_memory(path: MicroBatches, longest: int, step: int, may_recompute: bool) -> None:
    """After the card ran out of memory: without graphs, then half as many tokens at once, or recomputation if that is
    not possible.

    Raises:
        UserError: even the longest row alone does not fit.
    """
    torch.cuda.empty_cache()
    if isinstance(path, PackedMicroBatches) and path.graphs is not None and path.graphs.recorded:
        path.graphs.give_up(f"step {step + 1}: out of memory")
        return
    if path.micro_tokens <= longest:
        if may_recompute and isinstance(path, PackedMicroBatches) and path.start_recompute():
            say(f"train: step {step + 1}: out of memory; going on with activations recomputed")
            return
        fix = "set train.checkpointing=block or stream, model.quantize=nf4, or lower prompt.cutoff"
        what = f"step {step + 1}: the longest row, {longest} tokens, does not fit into the card's memory"
        raise UserError(what, "train", fix)
    path.micro_tokens = max(longest, path.micro_tokens // 2)
    say(f"train: step {step + 1}: out of memory; going on with at most {path.micro_tokens:,} tokens in one pass")
