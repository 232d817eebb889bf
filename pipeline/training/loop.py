"""The training loop: tokens in, adapter out, resumable after every step.

    step    batch_size rows -> micro-batches -> sum of -log p, backward -> divided by the step's labelled tokens
            -> gradients summed over ranks -> penalties -> clip -> optimizer

The loss of a step is the sum over the labelled tokens of all micro-batches and ranks, divided by their number, so it
does not depend on how the step is split. In fp16 it is scaled for the backward pass, and a step whose gradients
overflow is skipped (`loss_scale.py`).
"""

from __future__ import annotations

import functools
import resource
import time
from typing import Any

import torch

from pipeline.config.schema import Config
from pipeline.kernels.deterministic import deterministic
from pipeline.model import adapter as adapters
from pipeline.model.base import Base
from pipeline.model.precision import check_card, dtype_name
from pipeline.model.run_base import RunBase
from pipeline.model.sharded import has_sharded_weights
from pipeline.prompt.tokens import Tokens
from pipeline.ranks.watch import FREE, STEP, mark
from pipeline.run.errors import Interrupted, UserError
from pipeline.run.files import disk_errors
from pipeline.run.folder import Run
from pipeline.run.interrupt import answering
from pipeline.run.next_command import next_command
from pipeline.run.progress import bar, say, silent
from pipeline.training import checkpoint, metrics
from pipeline.training.fast_path import agree, reduce_memory
from pipeline.training.lowest_loss import MEASUREMENTS, LowestLoss
from pipeline.training.periodic_eval import losses_of
from pipeline.training.power import EnergyMeter, device_name
from pipeline.training.processes import (
    any_rank,
    any_rank_each,
    of_main,
    own_group,
    stop_on_signal,
    wait_for_all,
)
from pipeline.training.rank_rows import rank_rows
from pipeline.training.schedule import (
    epochs_after,
    every,
    step_rows,
)
from pipeline.training.session import Session
from pipeline.training.trained_adapter import finish, take_part, write_untrained
from pipeline.training.update import update


def train(config: Config, run: Run, base: Base, stage_key: dict[str, Any]) -> None:
    """Trains, from the newest checkpoint if there is one, and writes `adapter/`.

    Raises:
        UserError: the loss is not finite, the disk is full, or the base cannot be trained this way.
        Interrupted: Ctrl-C, SIGTERM or SIGHUP, after a checkpoint.
    """
    with own_group():
        _train(config, run, base, stage_key)


def _train(config: Config, run: Run, base: Base, stage_key: dict[str, Any]) -> None:
    run_base = RunBase.of(config, base)
    check_card(config.model)
    if adapters.method_of(config.adapter).spec.export == "nothing":
        write_untrained(config.name, run, run_base, stage_key)
        return
    session = Session.open(config, run, base, run_base, stage_key)
    config, accelerator, path, scaling = session.config, session.accelerator, session.path, session.scaling
    settings, tokens, total, state = config.train, session.tokens, session.total, session.state
    exchange = session.exchange
    world, rank, is_main = accelerator.num_processes, accelerator.process_index, accelerator.is_main_process
    root, log, model, weights = session.root, session.log, session.model, session.weights
    eval_every, save_every = every(settings.eval_every, total, MEASUREMENTS), every(settings.save_every, total, 12)
    lowest = LowestLoss.of(settings, state, session.val_rows)
    step, labelled_so_far, started_at = state["step"], state["learnt"], time.time() - state["seconds"]
    is_evaluating, peak_gib = False, functools.partial(_peak_gib, accelerator.device, state)
    energy = EnergyMeter(accelerator.device, state.get("joules") if state["step"] else 0.0)

    def save() -> None:
        mark(FREE)
        agree(path, accelerator)
        is_new = any_rank(accelerator, is_main and step not in checkpoint.steps(root))
        if is_new and (is_main or has_sharded_weights(model)):
            now = {
                "key": session.key, "sizes": session.sizes, "micro_tokens": path.micro_tokens,
                "recompute": path.recompute, "graphs": path.has_graphs, "checkpointing": settings.checkpointing,
                "learnt": labelled_so_far, "seconds": time.time() - started_at, "peak_gib": peak_gib(),
                "joules": energy.joules(), "processes": world, **lowest.state(), **scaling.state(),
            }  # fmt: skip
            checkpoint.save(root, step, weights, session.optimizer, now, settings.keep, accelerator)
        wait_for_all(accelerator)

    def evaluate() -> bool:  # whether these weights are to be kept
        nonlocal is_evaluating
        mark(FREE)
        is_evaluating, loss = True, 0.0
        if is_main or session.is_together:
            with accelerator.autocast(), deterministic(False), silent(not is_main):
                line = session.evaluation.measure(step)
        if is_main:
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
            exchange.start_step()
            loss = torch.zeros((), device=accelerator.device)
            try:
                passes = session.passes(rows, step)
                if step + 1 < total:
                    following = step_rows(step + 1, len(tokens), settings)
                    path.prefetch(rank_rows(following, path.costs, rank, world), step + 1)
                for n, (micro_batch, factor) in enumerate(passes):
                    # Dropout is a function of seed and place, so it is the same after resume.
                    torch.manual_seed(((settings.seed << 40) + (step << 16) + n * world + rank) % (1 << 63))
                    value = path.loss(micro_batch)
                    exchange.start_pass(is_last=n + 1 == len(passes), is_filler=factor == 0)
                    loss += scaling.backward(value if factor == 1 else value * factor)
                    if stop.code and world == 1:  # with more ranks the others wait for this one's gradients
                        break
            except torch.cuda.OutOfMemoryError:
                if session.is_together:  # the other ranks wait in this pass
                    raise _no_memory(step, path.micro_tokens) from None
                session.optimizer.zero_grad(set_to_none=True)
                reduce_memory(path, int(tokens.lengths.max()), step, settings.checkpointing == "auto")
                continue
            exchange.send_rest()
            is_stopping, is_incomplete = any_rank_each(accelerator, (stop.code != 0, exchange.is_incomplete))
            if is_stopping:
                exchange.wait()
                session.optimizer.zero_grad(set_to_none=True)
                save()
                raise _stopped(accelerator, step, total, stop.code)
            if is_incomplete:
                exchange.find_ungiven()

            done = update(session, step, rows, loss, labelled)
            step += 1
            labelled_so_far += 0 if done.is_skipped else labelled
            count, seconds = int(tokens.lengths[rows].sum()), time.time() - started
            line = {
                "step": step, "epoch": epochs_after(step, len(tokens), settings), "loss": float(done.loss),
                "lr": done.rate, "grad_norm": float(done.norm), **done.penalty, **done.scale, "tokens": count,
                "learnt": labelled, "seconds": round(seconds, 4),
            }  # fmt: skip
            progress.note = f"loss {line['loss']:.3f}, {count / seconds:,.0f} tok/s"
            progress.update()
            if is_main:
                if done.is_skipped:
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
    exchange.close()
    use_best = functools.partial(checkpoint.restore_best, root, weights) if lowest.is_before(step) else None
    if is_main:
        lowest.tell(step, total)
        scaling.tell(step)
        counts = {
            "steps": step, **lowest.counts(step, total), **scaling.counts(),
            "train_seconds": round(time.time() - started_at, 1),
            "trained_parameters": sum(p.numel() for p in weights.values()), "parameters": session.parameters,
            "learnt": labelled_so_far, "micro_tokens": path.micro_tokens, "path": path.name, "peak_gib": peak_gib(),
            "processes": world, "dtype": dtype_name(config.model), "device": str(accelerator.device),
            "device_name": device_name(accelerator.device), "joules": energy.joules(), "watts": energy.watts,
        }  # fmt: skip
        with accelerator.autocast():
            finish(config, run, run_base, model, stage_key, counts, use_best)
    elif session.is_together:
        with accelerator.autocast(), silent():
            take_part(config, run, run_base, model, use_best)
    wait_for_all(accelerator)
    accelerator.end_training()


def _no_memory(step: int, tokens: int) -> UserError:
    """Memory ran out in a pass of sharded weights. tokens: of a pass at most."""
    what = f"step {step + 1}: a pass of up to {tokens:,} tokens does not fit into the card's memory"
    fix = f"set train.micro_tokens={max(1, tokens // 2)} or train.checkpointing=block, or start more cards"
    return UserError(what, "train", fix)


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
