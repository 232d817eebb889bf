"""What a run trains with: its data, model and optimizer, and the state that it goes on from.

config, base, tokens ─> Session.open ─> loop.train
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.config.schema import Config
from pipeline.dataset.examples import read_examples
from pipeline.model import adapter as adapters
from pipeline.model.base import Base
from pipeline.model.block_stream import BlockStream
from pipeline.model.gathered_blocks import GatherCopier
from pipeline.model.load import Blocks, base_shape
from pipeline.model.memory import limit_card
from pipeline.model.precision import DTYPES, dtype_name
from pipeline.model.run_base import RunBase
from pipeline.model.sharded import FullyShard, mark_gathered
from pipeline.prompt.any_encoder import AnyEncoder
from pipeline.prompt.general_text import WINDOW
from pipeline.prompt.tokens import Tokens
from pipeline.run.folder import Run
from pipeline.run.progress import say, working
from pipeline.training import checkpoint, ewc, metrics, sharding
from pipeline.training.archive import open_checkpoints
from pipeline.training.early import check_ranks
from pipeline.training.fast_path import PathInputs, choose_path
from pipeline.training.gradient_exchange import GradientExchange
from pipeline.training.loss_scale import LossScale
from pipeline.training.lowest_loss import never_early
from pipeline.training.micro_batches import MicroBatches
from pipeline.training.optimizer import build_optimizer, embedding_names
from pipeline.training.optimizer_state import Layout
from pipeline.training.passes import EvenPasses, Pass
from pipeline.training.penalty import Penalty
from pipeline.training.periodic_eval import PeriodicEval
from pipeline.training.placement import place
from pipeline.training.preflight import check_export_tokenizer, open_tokens
from pipeline.training.processes import any_rank, open_own_group, start_accelerator
from pipeline.training.rank_rows import rank_rows
from pipeline.training.schedule import steps_per_epoch, total_steps, warmup_steps


@dataclass
class Session:
    """All that training needs, in the state of the newest checkpoint.

    Attributes:
        config: with `train.checkpointing` as it was decided. accelerator: of this process.
        val_rows: number of held-out rows that are measured while training and have a labelled token. total: steps.
        root: folder of checkpoints. log: metrics.jsonl. key, sizes: what a checkpoint belongs to.
        weights: that are trained, by name. parameters: of the model, before weights in fp8 leave their layers.
        state: of the checkpoint; `step` 0 without one. path: how passes are computed.
        exchange: of gradients with other ranks.
        even: the same number of passes on all ranks, where weights are sharded; None where each rank computes alone.
    """

    config: Config
    accelerator: Any
    tokens: Tokens
    val_rows: int
    total: int
    root: Path
    log: Path
    key: str
    sizes: dict[str, Any]
    model: Any
    weights: dict[str, Any]
    parameters: int
    optimizer: Any
    penalties: list[Penalty]
    state: dict[str, Any]
    scaling: LossScale
    path: MicroBatches
    exchange: GradientExchange
    even: EvenPasses | None
    evaluation: PeriodicEval

    @property
    def is_together(self) -> bool:
        """Whether all ranks run every pass together, in evaluations too."""
        return self.even is not None

    @classmethod
    def open(cls, config: Config, run: Run, base: Base, run_base: RunBase, stage_key: dict[str, Any]) -> Session:
        """Loads the base, and restores the newest checkpoint if there is one.

        Raises:
            UserError: the base cannot be trained this way, or memory is too small.
        """
        method, encoder, dataset = adapters.method_of(config.adapter), run_base.encoder, run.folder("dataset")
        dtype = dtype_name(config.model)
        accelerator = start_accelerator(dtype, config.train.tracker, run.root)
        limit_card(config.train.gpu_memory)
        is_main = accelerator.is_main_process
        check_ranks(accelerator.num_processes, config.train.batch_size)

        context = run_base.context_length()
        tokens, val = open_tokens(run.folder("tokens"), context, config.model.rope_scaling)
        total = total_steps(len(tokens), config.train)
        if is_main and method.spec.export == "merged":
            check_export_tokenizer(dataset, base, encoder)

        root, log = run.folder("checkpoints"), run.root / "metrics.jsonl"
        key, sizes = checkpoint.key_of(stage_key, base.commit)
        shape, resumed = base_shape(config.model, base), checkpoint.earlier_placement(root, key, sizes)
        longest, world = int(tokens.lengths.max()), accelerator.num_processes
        config = sharding.decide(config, shape, longest, world, lambda flag: any_rank(accelerator, flag), is_main)
        config = place(config, shape, longest, resumed, is_main)
        settings = config.train
        model = _load_model(config, run_base, quiet=not is_main)
        weights = adapters.trained(model)
        _, parameters = adapters.parameter_counts(model)
        optimizer = build_optimizer(model, weights, method.groups(weights, config.adapter), settings)

        layout = Layout.of(weights, settings.optimizer, embedding_names(model, weights))
        state = open_checkpoints(root, key, sizes, layout, settings.keep, (log, run.root / ewc.FILE), accelerator)
        general = _ewc_rows(config, dataset, tokens, encoder, context or WINDOW)
        penalties = ewc.load_penalties(settings, model, weights, general, run.root, stage_key, accelerator)
        if state["step"]:
            checkpoint.restore(root, state["step"], weights, optimizer, layout)
            if is_main:
                say(f"train: resuming from step {state['step']} of {total}")
                checkpoint.tell_other_world(state, accelerator.num_processes)
        scaling = LossScale.of(dtype, accelerator.device, state)
        trained, shared = list(weights.values()), encoder.preambles(read_examples(dataset, "train"))
        inputs = PathInputs(settings, model, tokens, shared, accelerator, state, trained, scaling)
        path = choose_path(inputs, dtype, config.model.quantize == "fp8", method.spec.never_packed)
        # FSDP2 sums the gradients of sharded weights itself; gathered blocks are messages that buckets must not meet.
        own = [] if sharding.shards_trained(config) else trained
        exchange = GradientExchange(own, world, overlapped=not sharding.shares(config))
        even = EvenPasses(path, tokens, accelerator.process_index, world) if sharding.shares(config) else None
        evaluation = PeriodicEval(model, encoder, val, settings.eval_rows, dataset, config.eval, context or WINDOW)
        if is_main:
            metrics.rewind(log, state["step"] or -1)
            _print_plan(config, weights, parameters, tokens, total, path)
        if settings.tracker != "none":
            accelerator.init_trackers("tracker", config=_flat(config))
        return cls(
            config, accelerator, tokens, evaluation.labelled_rows, total, root, log, key, sizes, model, weights,
            parameters, optimizer, penalties, state, scaling, path, exchange, even, evaluation,
        )  # fmt: skip

    def passes(self, rows: Sequence[int], step: int) -> Sequence[Pass]:
        """The micro-batches of this rank in a step, and what their losses are multiplied with. rows: of all ranks."""
        if self.even is not None:
            return self.even.of_step(rows, step)
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        return [(part, 1.0) for part in self.path.split(rank_rows(rows, self.path.costs, rank, world), step)]


def _load_model(config: Config, run_base: RunBase, quiet: bool) -> Any:
    """The base with its adapter. quiet: shows no progress."""
    added = tuple(run_base.encoder.tokenizer.added.values())
    with working("train: loading the base", disable=quiet):
        blocks = _blocks(config)
        base = run_base.load(blocks)
        if isinstance(blocks, FullyShard):
            blocks.finish(base)
        elif sharding.shares(config):
            mark_gathered(base)
        return adapters.attach(base, config.adapter, config.train.seed, added)


def _blocks(config: Config) -> Blocks | None:
    """What gets the blocks of the decoder; None where they stay on the card."""
    if sharding.shares(config):
        open_own_group()
    if sharding.shards_trained(config):
        return FullyShard(DTYPES[dtype_name(config.model)])
    if sharding.shares(config):
        return BlockStream(GatherCopier())
    return BlockStream() if config.train.checkpointing == "stream" else None


def _ewc_rows(config: Config, dataset: Path, tokens: Tokens, encoder: AnyEncoder, longest: int) -> list[ewc.Row]:
    """General data for EWC: the text that `train.ewc_data` names, else the rehearsal rows; empty without EWC."""
    if not config.train.ewc:
        return []
    if config.train.ewc_data:
        return ewc.text_rows(config.train.ewc_data, config.eval.general, encoder, longest)
    return ewc.rehearsal_rows(config.data.sources, dataset, tokens)


def _print_plan(
    config: Config, weights: dict[str, Any], parameters: int, tokens: Tokens, total: int, path: MicroBatches
) -> None:
    settings, trained = config.train, sum(p.numel() for p in weights.values())
    share = trained / parameters
    say(
        f"train: {total:,} steps of {settings.batch_size} rows, {warmup_steps(total, settings.warmup)} for warm-up; "
        f"{len(tokens):,} rows are {steps_per_epoch(len(tokens), settings):,} steps an epoch"
    )
    percent = f"{share:.2%}" if share >= 1e-3 else f"{100 * share:.1g} %"
    say(f"train: {config.adapter.method}: {trained:,} of {parameters:,} parameters are trained ({percent})")
    parts = ", weights sharded over the processes" if sharding.shares(config) else ""
    say(f"train: {path.name} path, at most {path.micro_tokens:,} tokens in one pass{parts}")
    if problem := never_early(settings, total):
        say(f"train: {problem}")


def _flat(config: Config) -> dict[str, Any]:
    """Config values for trackers: one level, numbers or text."""
    return {
        f"{section}.{name}": value if isinstance(value, (int, float, str, bool)) else str(value)
        for section, values in config.model_dump(mode="json").items()
        if isinstance(values, dict)
        for name, value in values.items()
    }
