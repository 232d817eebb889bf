"""The training loop: tokens in, adapter out, resumable after every step.

    step    batch_size rows -> micro-batches -> sum of -log p, backward -> divided by the step's labelled tokens
            -> gradients summed over ranks -> penalties -> clip -> optimizer

The loss of a step is the sum over the labelled tokens of all micro-batches and ranks, divided by their number, so it
does not depend on how the step is split. In fp16 it is scaled for the backward pass, and a step whose gradients
overflow is skipped (`loss_scale.py`).
"""

from __future__ import annotations

import functools
import math
import resource
import time
from pathlib import Path
from typing import Any

import torch

from pipeline.config.schema import Config
from pipeline.dataset.examples import read_examples
from pipeline.kernels.deterministic import deterministic
from pipeline.model import adapter as adapters
from pipeline.model.base import Base
from pipeline.model.block_stream import BlockStream
from pipeline.model.load import base_shape, check_card, dtype_name
from pipeline.model.memory import limit_card
from pipeline.model.run_base import RunBase
from pipeline.prompt.any_encoder import AnyEncoder
from pipeline.prompt.general_text import WINDOW
from pipeline.prompt.tokens import Tokens
from pipeline.ranks.watch import FREE, STEP, mark
from pipeline.run.errors import Interrupted, UserError
from pipeline.run.files import disk_errors
from pipeline.run.folder import Run
from pipeline.run.interrupt import answering
from pipeline.run.next_command import next_command
from pipeline.run.progress import bar, say, working
from pipeline.training import checkpoint, ewc, metrics
from pipeline.training.archive import open_checkpoints
from pipeline.training.fast_path import PathInputs, agree, choose_path, reduce_memory
from pipeline.training.loss_scale import LossScale
from pipeline.training.lowest_loss import LowestLoss
from pipeline.training.micro_batches import MicroBatches
from pipeline.training.optimizer import build_optimizer, embedding_names, take_step
from pipeline.training.optimizer_state import Layout
from pipeline.training.penalty import add_gradients
from pipeline.training.periodic_eval import PeriodicEval, losses_of
from pipeline.training.placement import place
from pipeline.training.power import EnergyMeter, device_name
from pipeline.training.preflight import check_export_tokenizer, check_ranks, open_tokens
from pipeline.training.processes import (
    any_rank,
    of_main,
    start_accelerator,
    stop_on_signal,
    sum_gradients,
    sum_over_ranks,
    wait_for_all,
)
from pipeline.training.rank_rows import rank_rows
from pipeline.training.schedule import (
    epochs_after,
    every,
    learning_rate,
    step_rows,
    steps_per_epoch,
    total_steps,
    warmup_steps,
)
from pipeline.training.trained_adapter import finish, write_untrained


def train(config: Config, run: Run, base: Base, stage_key: dict[str, Any]) -> None:
    """Trains, from the newest checkpoint if there is one, and writes `adapter/`.

    Raises:
        UserError: the loss is not finite, the disk is full, or the base cannot be trained this way.
        Interrupted: Ctrl-C, SIGTERM or SIGHUP, after a checkpoint.
    """
    settings, method = config.train, adapters.method_of(config.adapter)
    check_card(config.model)
    run_base = RunBase.of(config, base)
    encoder, dataset = run_base.encoder, run.folder("dataset")
    if method.spec.export == "nothing":
        write_untrained(config.name, run, run_base, stage_key)
        return
    accelerator = start_accelerator(dtype_name(config.model), settings.tracker, run.root)
    limit_card(settings.gpu_memory)
    world, rank, is_main = accelerator.num_processes, accelerator.process_index, accelerator.is_main_process
    check_ranks(world, settings.batch_size)

    # data
    context = run_base.context_length()
    tokens, val = open_tokens(run.folder("tokens"), context)
    total = total_steps(len(tokens), settings)
    eval_every, save_every = every(settings.eval_every, total, 4), every(settings.save_every, total, 12)

    # model, optimiser
    if is_main and method.spec.export == "merged":
        check_export_tokenizer(dataset, base, encoder)
    root, log = run.folder("checkpoints"), run.root / "metrics.jsonl"
    key, sizes = checkpoint.key_of(stage_key, base.commit)
    shape, resumed = base_shape(config.model, base), checkpoint.earlier_placement(root, key, sizes)
    config = place(config, shape, int(tokens.lengths.max()), resumed, is_main)
    settings = config.train
    model = _load_model(config, run_base, quiet=not is_main)
    weights = adapters.trained(model)
    _, parameters = adapters.parameter_counts(model)  # before weights in fp8 leave their layers
    optimizer = build_optimizer(model, weights, method.groups(weights, config.adapter), settings)

    # start or resume
    layout = Layout.of(weights, settings.optimizer, embedding_names(model, weights))
    state = open_checkpoints(root, key, sizes, layout, settings.keep, (log, run.root / ewc.FILE), accelerator)
    general = _ewc_rows(config, dataset, tokens, encoder, context or WINDOW)
    penalties = ewc.load_penalties(settings, model, weights, general, run.root, stage_key, accelerator)
    if state["step"]:
        checkpoint.restore(root, state["step"], weights, optimizer, layout)
        if is_main:
            say(f"train: resuming from step {state['step']} of {total}")
            checkpoint.tell_other_world(state, world)
    scaling = LossScale.of(dtype_name(config.model), accelerator.device, state)
    trained = list(weights.values())
    inputs = PathInputs(settings, model, tokens, _shared(encoder, dataset), accelerator, state, trained, scaling)
    path = choose_path(inputs, dtype_name(config.model), config.model.quantize == "fp8", method.spec.never_packed)
    if is_main:
        metrics.rewind(log, state["step"] or -1)
        _print_plan(config, weights, parameters, tokens, total, path)
    if settings.tracker != "none":
        accelerator.init_trackers("tracker", config=_flat(config))
    evaluation = PeriodicEval(model, encoder, val, settings.eval_rows, dataset, config.eval, context or WINDOW)
    lowest = LowestLoss.of(settings, state, len(val))
    step, labelled_so_far, started_at = state["step"], state["learnt"], time.time() - state["seconds"]
    is_evaluating, peak_gib = False, functools.partial(_peak_gib, accelerator.device, state)
    energy = EnergyMeter(accelerator.device, state.get("joules") if state["step"] else 0.0)

    def save() -> None:
        mark(FREE)
        agree(path, accelerator)
        if is_main and step not in checkpoint.steps(root):
            now = {
                "key": key, "sizes": sizes, "micro_tokens": path.micro_tokens, "recompute": path.recompute,
                "checkpointing": settings.checkpointing,
                "learnt": labelled_so_far, "seconds": time.time() - started_at, "peak_gib": peak_gib(),
                "joules": energy.joules(), "processes": world, **lowest.state(), **scaling.state(),
            }  # fmt: skip
            checkpoint.save(root, step, weights, optimizer, now, settings.keep)
        wait_for_all(accelerator)

    def evaluate() -> bool:  # whether these weights are to be kept
        nonlocal is_evaluating
        mark(FREE)
        is_evaluating, loss = True, 0.0
        if is_main:
            with accelerator.autocast(), deterministic(False):
                line = evaluation.measure(step)
            metrics.append(log, line)
            accelerator.log(losses_of(line), step=step)
            loss = line.get("val_loss", 0.0)
        loss, is_evaluating = of_main(accelerator, loss), False
        return lowest.add(step, loss)

    if step == 0:
        evaluate()
    model.train()
    spikes = metrics.Spikes(m["loss"] for m in metrics.read(log) if "loss" in m and "skipped" not in m)
    with (
        bar(total=total, initial=step, what="training", unit="step", disable=not is_main) as progress,
        answering(lambda: _stopping(step, is_evaluating)),
        stop_on_signal() as stop,
        disk_errors(run.root),
        path.deterministic(),
    ):
        while step < total and not lowest.is_over:
            mark(STEP, step)
            started = time.time()
            rows = step_rows(step, len(tokens), settings)
            labelled = int(tokens.labelled[rows].sum())
            scaling.start_step(labelled)
            loss = torch.zeros((), device=accelerator.device)
            try:
                micro_batches = path.split(rank_rows(rows, path.costs, rank, world), step)
                if step + 1 < total:
                    following = step_rows(step + 1, len(tokens), settings)
                    path.prefetch(rank_rows(following, path.costs, rank, world), step + 1)
                for n, micro_batch in enumerate(micro_batches):
                    # Dropout is a function of seed and place, so it is the same after resume.
                    torch.manual_seed(((settings.seed << 40) + (step << 16) + n * world + rank) % (1 << 63))
                    loss += scaling.backward(path.loss(micro_batch))
                    if stop.code and world == 1:  # with more ranks the others wait for this one's gradients
                        break
            except torch.cuda.OutOfMemoryError:
                optimizer.zero_grad(set_to_none=True)
                reduce_memory(path, int(tokens.lengths.max()), step, settings.checkpointing == "auto")
                continue
            if any_rank(accelerator, stop.code != 0):
                optimizer.zero_grad(set_to_none=True)
                save()
                raise _stopped(accelerator, step, total, stop.code)

            sum_gradients(accelerator, weights.values())
            scaling.unscale(weights.values())
            penalty = add_gradients(penalties)
            norm = torch.nn.utils.clip_grad_norm_(weights.values(), settings.clip or math.inf)
            rate, scale = learning_rate(step - scaling.skipped, total, settings), scaling.metric()
            is_skipped = scaling.factor is not None and any_rank(accelerator, scaling.overflows(norm))
            if is_skipped:
                optimizer.zero_grad(set_to_none=True)
            else:
                take_step(optimizer, rate)
                path.after_step()
            scaling.update(is_skipped)
            loss = sum_over_ranks(accelerator, loss) / max(1, labelled)
            # The first wait for the card in this step; nothing has been saved since it began.
            if scaling.is_exhausted:
                rows_text = _place(checkpoint.steps(root), tokens.names_of(rows))
                raise _no_scale(step, float(loss), scaling.in_a_row, rows_text)
            if not (is_skipped or (torch.isfinite(loss) and torch.isfinite(norm))):
                rows_text = _place(checkpoint.steps(root), tokens.names_of(rows))
                raise _not_finite(step, float(loss), float(norm), rows_text)

            step += 1
            labelled_so_far += 0 if is_skipped else labelled
            count, seconds = int(tokens.lengths[rows].sum()), time.time() - started
            line = {
                "step": step, "epoch": epochs_after(step, len(tokens), settings), "loss": float(loss), "lr": rate,
                "grad_norm": float(norm), **penalty, **scale, "tokens": count, "learnt": labelled,
                "seconds": round(seconds, 4),
            }  # fmt: skip
            progress.note = f"loss {line['loss']:.3f}, {count / seconds:,.0f} tok/s"
            progress.update()
            if is_main:
                if is_skipped:
                    line = metrics.skipped(line, tokens.names_of(rows))
                else:
                    _mark_spike(line, spikes, tokens, rows)
                metrics.append(log, line)
                accelerator.log({k: line[k] for k in ("loss", "lr", "grad_norm", "epoch") if k in line}, step=step)
            is_lowest = (step % eval_every == 0 or step == total) and evaluate()
            if step % save_every == 0 or step == total or is_lowest or lowest.is_over:
                save()
        mark(FREE)
        if any_rank(accelerator, stop.code != 0):  # a signal during the last evaluation
            raise _stopped(accelerator, step, total, stop.code)
    if is_main:
        lowest.tell(step, total)
        scaling.tell(step)
        counts = {
            "steps": step, **lowest.counts(step, total), **scaling.counts(),
            "train_seconds": round(time.time() - started_at, 1),
            "trained_parameters": sum(p.numel() for p in weights.values()), "parameters": parameters,
            "learnt": labelled_so_far, "micro_tokens": path.micro_tokens, "path": path.name, "peak_gib": peak_gib(),
            "processes": world, "dtype": dtype_name(config.model), "device": str(accelerator.device),
            "device_name": device_name(accelerator.device), "joules": energy.joules(), "watts": energy.watts,
        }  # fmt: skip
        use_best = functools.partial(checkpoint.restore_best, root, weights)
        with accelerator.autocast():
            finish(config, run, run_base, model, stage_key, counts, use_best if lowest.is_before(step) else None)
    wait_for_all(accelerator)
    accelerator.end_training()


def _load_model(config: Config, run_base: RunBase, quiet: bool) -> Any:
    """The base with its adapter. quiet: shows no progress."""
    stream = BlockStream() if config.train.checkpointing == "stream" else None
    added = tuple(run_base.encoder.tokenizer.added.values())
    with working("train: loading the base", disable=quiet):
        return adapters.attach(run_base.load(stream), config.adapter, config.train.seed, added)


def _shared(encoder: AnyEncoder, dataset: Path) -> list[list[int]]:
    """Ids that training rows begin with."""
    return encoder.preambles(read_examples(dataset, "train"))


def _ewc_rows(config: Config, dataset: Path, tokens: Tokens, encoder: AnyEncoder, longest: int) -> list[ewc.Row]:
    """General data for EWC: the text that `train.ewc_data` names, else the rehearsal rows; empty without EWC."""
    if not config.train.ewc:
        return []
    if config.train.ewc_data:
        return ewc.text_rows(config.train.ewc_data, config.eval.general, encoder, longest)
    return ewc.rehearsal_rows(config.data.sources, dataset, tokens)


def _mark_spike(line: dict[str, Any], spikes: metrics.Spikes, tokens: Tokens, rows: list[int]) -> None:
    """Names the rows of a step whose loss is far above those before, in its line of metrics.jsonl and on the screen."""
    step, loss = line["step"], line["loss"]
    if spikes.is_spike(loss):
        line["spike"] = tokens.names_of(rows)
        mean = f"{spikes.mean:.3f}"
        say(f"train: step {step}: the loss jumped to {loss:.3f} from about {mean}; metrics.jsonl names its rows")


def _peak_gib(device: torch.device, state: dict[str, Any]) -> float:
    """Peak memory of this run and those it resumed, GiB: of the card, or of the whole process on a CPU."""
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(device)
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 2**10  # Linux counts in KiB
    return max(float(state.get("peak_gib", 0)), round(peak / 2**30, 2))


def _stopping(step: int, is_evaluating: bool) -> str:
    """The answer to Ctrl-C: what is finished first."""
    before = "finishing the evaluation and " if is_evaluating else ""
    return f"stopping: {before}writing the checkpoint of step {step}; Ctrl-C again stops at once"


def _stopped(accelerator: Any, step: int, total: int, code: int) -> Interrupted:
    """Ends the trackers; returns what says how to go on."""
    accelerator.end_training()
    where = f"stopped at step {step} of {total}; its checkpoint is written. To go on from there:"
    return Interrupted(f"{where}\n  {next_command()}", code or 130)


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
    say(f"train: {path.name} path, at most {path.micro_tokens:,} tokens in one pass")


def _not_finite(step: int, loss: float, norm: float, place: str) -> UserError:
    what = f"step {step + 1}: loss {loss}, gradient norm {norm}: training cannot go on. {place}"
    return UserError(what, "train", "lower train.lr, train.l2_sp or train.ewc, or raise train.warmup")


def _no_scale(step: int, loss: float, skipped: int, place: str) -> UserError:
    """Gradients overflow in fp16 whatever the scale. skipped: steps in a row."""
    why = f"gradients overflow in fp16 at any loss scale, {skipped} steps in a row"
    what = f"step {step + 1}: loss {loss}, {why}. {place}"
    fix = "set model.dtype=fp32, or bf16 on an Ampere card or newer; if the loss rose before, lower train.lr"
    return UserError(what, "train", fix)


def _place(saved: list[int], rows: list[str]) -> str:
    """The newest checkpoint and the rows of a step that failed."""
    newest = f"The newest checkpoint is that of step {saved[-1]}" if saved else "There is no checkpoint yet"
    return f"{newest}. The step's rows: {', '.join(rows[:8])}{', ...' if len(rows) > 8 else ''}"


def _flat(config: Config) -> dict[str, Any]:
    """Config values for trackers: one level, numbers or text."""
    return {
        f"{section}.{name}": value if isinstance(value, (int, float, str, bool)) else str(value)
        for section, values in config.model_dump(mode="json").items()
        if isinstance(values, dict)
        for name, value in values.items()
    }
