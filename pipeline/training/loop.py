"""The training loop: tokens in, adapter out; flat, resumable at every step.

One optimiser step takes exactly `batch_size` examples, in as many micro-batches as memory asks for. Its loss is the
sum over the labelled tokens of all of them, on all ranks, divided by their number: how the step is cut up does not
change it. Ranks compute apart and add up their gradients once a step.
"""

from __future__ import annotations

import math
import os
import resource
import time
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import ProjectConfiguration

from pipeline.config.schema import Config
from pipeline.evaluation.probe_model import probe_model, tell
from pipeline.kernels.deterministic import deterministic
from pipeline.model import adapter as adapters
from pipeline.model import adapter_folder
from pipeline.model.base import Base, kind_of
from pipeline.model.base.fingerprint import fingerprint
from pipeline.model.load import add_tokens, check_card, dtype_name, load_base
from pipeline.prompt.encode import Encoder
from pipeline.prompt.stage import encoder_of
from pipeline.prompt.tokens import Tokens
from pipeline.run.errors import Interrupted, UserError
from pipeline.run.files import disk_errors, write_json
from pipeline.run.folder import Run, StageOutput
from pipeline.run.progress import bar, say
from pipeline.training import checkpoint, fisher, metrics
from pipeline.training.archive import open_checkpoints
from pipeline.training.decay import groups_of
from pipeline.training.fast_path import agree, halve, open_path
from pipeline.training.forgetting import open_penalties
from pipeline.training.interrupt import interruptible
from pipeline.training.micro_batches import Packed, Plain
from pipeline.training.order import share_of
from pipeline.training.penalty import gradients_onto
from pipeline.training.periodic_eval import Look, losses_of
from pipeline.training.preflight import open_tokens, preflight
from pipeline.training.ranks import anyone, sum_gradients
from pipeline.training.schedule import epochs_of, learning_rate, rows_of, steps_an_epoch, total_steps, warmup_steps
from pipeline.training.spike import Spikes


def train(config: Config, run: Run, base: Base, stage_key: dict[str, Any]) -> None:
    """Trains, from the newest checkpoint if there is one, and writes `adapter/`.

    Raises:
        UserError: the loss is not finite, the disk is full, or the base cannot be trained this way.
        Interrupted: Ctrl-C, SIGTERM or SIGHUP, after a checkpoint.
    """
    settings, root, method = config.train, run.folder("checkpoints"), adapters.method_of(config.adapter)
    check_card(config.model)
    if method.spec.export == "nothing":
        _train_nothing(config, run, base, stage_key)
        return
    accelerator = _accelerator(config, run)
    world, rank, main = accelerator.num_processes, accelerator.process_index, accelerator.is_main_process
    tokens, val = open_tokens(config, run, base)
    total = total_steps(len(tokens), settings)
    eval_every = settings.eval_every or max(1, math.ceil(total / 4))
    save_every = settings.save_every or max(1, math.ceil(total / 12))

    say("train: loading the base") if main else None
    encoder = encoder_of(config, base.tokenizer)
    preflight(run, base, encoder) if main and method.spec.export == "merged" else None
    plain = load_base(config.model, base, settings.seed, method.spec.float32)
    add_tokens(plain, encoder.tokenizer.size)
    plain = adapters.attach(plain, config.adapter, settings.seed, tuple(encoder.tokenizer.added.values()))
    weights = adapters.trained(plain)
    _, everything = adapters.parameter_counts(plain)  # before weights in fp8 leave their layers
    groups = groups_of(plain, weights, method.groups(weights, config.adapter), settings.weight_decay)
    optimizer = torch.optim.AdamW(groups, lr=settings.lr, fused=accelerator.device.type == "cuda")

    key, sizes = checkpoint.key_of(stage_key, base.commit)
    log = run.root / "metrics.jsonl"
    beside = log, run.root / fisher.FILE
    state = open_checkpoints(root, key, sizes, weights, settings.keep, beside, accelerator)
    penalties = open_penalties(config, run, plain, weights, encoder, tokens, accelerator, stage_key)
    if state["step"]:
        checkpoint.restore(root, state["step"], weights, optimizer)
        say(f"train: going on from step {state['step']} of {total}") if main else None
    path = open_path(config, plain, tokens, encoder.leading(), accelerator, state, list(weights.values()))
    if main:
        metrics.rewind(log, state["step"] - (0 if state["step"] else 1))
        _describe(config, weights, everything, tokens, total, path)
    if settings.tracker != "none":
        accelerator.init_trackers("tracker", config=_flat(config))

    sight = Look(plain, config, run, encoder, val)
    progress = bar(total=total, initial=state["step"], what="training", unit="step", disable=not main)
    begun, before, step, learnt_so_far = time.time(), state["seconds"], state["step"], state["learnt"]

    def save() -> None:
        agree(path, accelerator)
        if main and step not in checkpoint.steps(root):
            now = {
                "key": key, "sizes": sizes, "micro_tokens": path.micro_tokens, "recompute": path.recompute,
                "learnt": learnt_so_far, "seconds": before + time.time() - begun,
                "peak_gib": _peak(accelerator.device, state),
            }  # fmt: skip
            checkpoint.save(root, step, weights, optimizer, now, settings.keep)
        accelerator.wait_for_everyone()

    def look() -> None:
        if main:
            with accelerator.autocast(), deterministic(False):
                line = sight.at(step)
            metrics.append(log, line)
            accelerator.log(losses_of(line), step=step)
        accelerator.wait_for_everyone()

    if step == 0:
        look()
    plain.train()
    spikes = Spikes(m["loss"] for m in metrics.read(log) if "loss" in m)
    with interruptible() as flag, disk_errors(run.root), path.in_order():
        while step < total:
            started = time.time()
            rows = rows_of(step, len(tokens), settings)
            learnt = int(tokens.learnt[rows].sum())
            loss = torch.zeros((), device=accelerator.device)
            try:
                parts = path.parts(share_of(rows, tokens.lengths, rank, world))
                if step + 1 < total:
                    following = rows_of(step + 1, len(tokens), settings)
                    path.ahead(share_of(following, tokens.lengths, rank, world))
                for n, part in enumerate(parts):
                    # Dropout, too, is a pure function of seed and place, so it is the same after resume.
                    torch.manual_seed(((settings.seed << 40) + (step << 16) + n * world + rank) % (1 << 63))
                    found = path.loss(part)
                    if found.requires_grad:  # a part in which nothing is labelled has no gradient
                        (found / max(1, learnt)).backward()
                    loss += found.detach()
                    if flag.code and world == 1:  # with more ranks the others still wait for this one's gradients
                        break
            except torch.cuda.OutOfMemoryError:
                optimizer.zero_grad(set_to_none=True)
                halve(path, int(tokens.lengths.max()), step, settings.checkpointing == "auto")
                continue
            if anyone(accelerator, flag.code):
                optimizer.zero_grad(set_to_none=True)
                save()
                progress.close()
                accelerator.end_training()
                raise Interrupted(
                    f"stopped at step {step} of {total}; the next `make train` goes on from there", flag.code or 130
                )
            sum_gradients(accelerator, weights.values())
            extra = gradients_onto(penalties)
            loss = accelerator.reduce(loss, "sum") / max(1, learnt)
            norm = torch.nn.utils.clip_grad_norm_(weights.values(), settings.clip or math.inf)
            rate = learning_rate(step, total, settings)
            for group in optimizer.param_groups:
                group["lr"] = rate * group["ratio"]
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            path.updated()
            # Only here is the card waited for, when all that ends a step is in its queue; nothing has been saved yet.
            if not (torch.isfinite(loss) and torch.isfinite(norm)):
                progress.close()
                raise _not_finite(step, float(loss), float(norm), checkpoint.steps(root), tokens.of(rows))
            step += 1
            learnt_so_far += learnt
            count = int(tokens.lengths[rows].sum())
            seconds = time.time() - started
            epoch = epochs_of(step, len(tokens), settings)
            line = {"step": step, "epoch": epoch, "loss": float(loss), "lr": rate, "grad_norm": float(norm), **extra}
            line |= {"tokens": count, "learnt": learnt, "seconds": round(seconds, 4)}
            if spikes.is_one(line["loss"]) and main:
                line["spike"] = tokens.of(rows)
                say(f"train: step {step}: loss {line['loss']:.3f} after {spikes.mean:.3f}; metrics.jsonl has its rows")
            progress.set_postfix_str(f"loss {line['loss']:.3f}, {count / seconds:,.0f} tok/s", refresh=False)
            progress.update()
            if main:
                metrics.append(log, line)
                accelerator.log({k: line[k] for k in ("loss", "lr", "grad_norm", "epoch")}, step=step)
            if step % eval_every == 0 or step == total:
                look()
            if step % save_every == 0 or step == total:
                save()
    progress.close()
    if main:
        counts = {"steps": total, "train_seconds": round(before + time.time() - begun, 1), "learnt": learnt_so_far}
        counts |= {"trained_parameters": sum(p.numel() for p in weights.values()), "parameters": everything}
        counts |= {"micro_tokens": path.micro_tokens, "path": path.name, "peak_gib": _peak(accelerator.device, state)}
        counts |= {"processes": world, "dtype": dtype_name(config.model), "device": str(accelerator.device)}
        with accelerator.autocast():
            _finish(config, run, base, plain, encoder, stage_key, counts)
    accelerator.wait_for_everyone()
    accelerator.end_training()


def _peak(device: torch.device, state: dict[str, Any]) -> float:
    """The most memory in use in this run, GiB: of the card, or of the process with all it did before training."""
    cuda = device.type == "cuda"
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 2**10  # Linux counts in KiB
    used = torch.cuda.max_memory_allocated(device) if cuda else rss
    return max(float(state.get("peak_gib", 0)), round(used / 2**30, 2))


def _accelerator(config: Config, run: Run) -> Accelerator:
    tracker = config.train.tracker
    if tracker != "none":
        from accelerate.tracking import get_available_trackers

        if tracker not in [str(t) for t in get_available_trackers()]:
            raise UserError(
                f"the tracker {tracker!r} is not installed",
                "train.tracker",
                f"pip install {tracker}, or set train.tracker=none",
            )
    # What cuBLAS needs for sums in a fixed order; what it has on an H200 anyway. Read at the first product.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    return Accelerator(
        mixed_precision="bf16" if dtype_name(config.model) == "bf16" else "no",
        cpu=not torch.cuda.is_available(),
        log_with=None if tracker == "none" else tracker,
        project_config=ProjectConfiguration(project_dir=str(run.root), logging_dir=str(run.root)),
    )


def _describe(
    config: Config, weights: dict[str, Any], everything: int, tokens: Tokens, total: int, path: Packed | Plain
) -> None:
    """The arithmetic of the run, derived and printed."""
    trained = sum(p.numel() for p in weights.values())
    per_epoch = steps_an_epoch(len(tokens), config.train)
    say(f"train: {len(tokens):,} rows / {config.train.batch_size} a step = {per_epoch} steps an epoch; {total} steps, "
        f"{warmup_steps(total, config.train.warmup)} of them warm-up")  # fmt: skip
    share = trained / everything
    say(
        f"train: {config.adapter.method}: {trained:,} of {everything:,} parameters are trained "
        f"({share:{'.2%' if share >= 1e-3 else '.2g'}}); {path.name} path, at most {path.micro_tokens:,} tokens at once"
    )


def _not_finite(step: int, loss: float, norm: float, saved: list[int], rows: list[str]) -> UserError:
    last = f"the newest checkpoint is step {saved[-1]}" if saved else "there is no checkpoint yet"
    return UserError(f"step {step + 1}: loss {loss}, gradient norm {norm}: training cannot go on "
                     f"({last}; the step's rows: {', '.join(rows[:8])}{', ...' if len(rows) > 8 else ''})", "train",
                     "lower train.lr, train.l2_sp or train.ewc, or raise train.warmup")  # fmt: skip


def _flat(config: Config) -> dict[str, Any]:
    """Config values as trackers take them: one level, scalars or text."""
    return {
        f"{section}.{name}": value if isinstance(value, (int, float, str, bool)) else str(value)
        for section, values in config.model_dump(mode="json").items()
        if isinstance(values, dict)
        for name, value in values.items()
    }


def _finish(
    config: Config, run: Run, base: Base, model: Any, encoder: Encoder, key: dict[str, Any], counts: dict[str, Any]
) -> None:
    """Looks at the trained model's answers, and writes it with all that is known of its training."""
    lines = metrics.read(run.root / "metrics.jsonl")
    losses = [m["loss"] for m in lines if "loss" in m]
    counts |= {"first_loss": losses[0], "last_loss": losses[-1]} if losses else {}
    probed = probe_model(model, config, run, encoder, counts)
    metrics.plot(run.root / "loss.png", lines, config.name)
    with run.writing("adapter", key) as output:
        _save(config, base, model, encoder, output)
        write_json(output.folder / "probes.json", probed)
        output.counts = counts
    took = f"{counts['steps']} steps in {counts['train_seconds']:.0f} s, peak {counts['peak_gib']:.1f} GiB"
    say(f"train: {took} -> {run.folder('adapter')}")
    tell(probed)


def _save(config: Config, base: Base, model: Any, encoder: Encoder, output: StageOutput) -> None:
    """What was trained, and beside it what it was trained on and with."""
    on_hub, method = kind_of(config.model) == "hub", adapters.method_of(config.adapter)
    method.save(model, output.folder, adapter_folder.base_reference(config.model, base))
    sees = getattr(getattr(model, "config", None), "max_position_embeddings", None)
    adapter_folder.complete(output.folder, config, base, encoder, sees)
    made = {
        "method": method.name,
        "adapter": {key: config.value(f"adapter.{key}") for key in method.spec.keys},
        "template": {"id": encoder.template.id, "hash": encoder.template.hash},
        "tokenizer": encoder.tokenizer.hash,
        "base": config.model.base if on_hub else base.folder.name if base.folder else "random weights",
        "base_hash": fingerprint(config.model, base, config.train.seed),
        "commit": base.commit,
        "end_id": encoder.end_id,
    }
    write_json(output.folder / "suri.json", made)


def _train_nothing(config: Config, run: Run, base: Base, key: dict[str, Any]) -> None:
    """`adapter.method=none`: the folder says so."""
    if int(os.environ.get("RANK", "0")) == 0:
        with run.writing("adapter", key) as output:
            _save(config, base, None, encoder_of(config, base.tokenizer), output)
            output.counts = {"steps": 0, "trained_parameters": 0}
        say(f"train: nothing is trained (adapter.method=none) -> {run.folder('adapter')}")
