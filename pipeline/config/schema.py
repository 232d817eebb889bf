"""Every key of a run's config: its type, its default, what it is and when to change it.

A config file holds only what differs from these defaults; `key=value` words on the command line come on top. `load`
reads both and reports every problem at once, each with its line and the nearest key that exists.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from pipeline.config.data import Benchmark, Data, Duplicates, Source
from pipeline.config.evaluation import Compare, Eval, Judge
from pipeline.config.methods import check_name
from pipeline.config.values import (  # fmt: skip
    Action,
    Count,
    Length,
    Name,
    Positive,
    Rate,
    Section,
    Seed,
    Share,
    Shots,
    Width,
    adapter_name,
    number,
)

__all__ = [
    "Action", "Adapter", "Benchmark", "Chat", "Compare", "Config", "Data", "Duplicates", "Eval", "Export", "Judge",
    "Model", "Prompt", "Section", "Source", "Train",
]  # fmt: skip


class Model(Section):
    base: str = ""
    """The model that is tuned: a hub id, a folder with safetensors, or a .gguf file of a causal language model.
    Every run but one without a model (`make data`) needs it."""
    revision: str = ""
    """Hub ids: a branch, tag or commit; empty = what the hub's cache holds, else the newest. Set a commit so that a
    run can be repeated."""
    tokenizer: str = ""
    """Folder with tokenizer.model or tokenizer.json; empty = the base's own. Set it when the base comes without one."""
    dtype: Literal["auto", "bf16", "fp32"] = "auto"
    """Type of the arithmetic: auto = bf16 on a GPU that has it, fp32 on a CPU (where bf16 is far slower). Set fp32
    to tell rounding from other causes."""
    quantize: Literal["none", "int8", "nf4", "fp8"] = "none"
    """Type of the frozen base: int8 or nf4 (bitsandbytes) need less memory, fp8 is faster on Hopper GPUs and newer.
    Set one when memory is short, or for speed."""
    geometry: dict[str, Any] | None = None
    """Shape of the model (keys of config.json, with model_type). Set it beside a base for `make plan` without its
    files, or without a base for random weights of that shape, for tests and benchmarks."""
    add_tokens: tuple[str, ...] = ()
    """New special tokens: appended to the vocabulary, started at the mean embedding, trained and saved. Set it when
    your template uses marks that the base does not know."""


class Prompt(Section):
    template: Annotated[str, Field(min_length=1)] = "alpaca"
    """Name of a built-in template, or path of a YAML file with your own. Take the one that the base was tuned on,
    where it was."""
    cutoff: Annotated[int, BeforeValidator(number), Field(ge=4, le=1 << 20)] = 512
    """Most tokens in a row: prompt, answer and end token together. Raise it when the report shows that many rows are
    cut."""
    mask_prompt: bool = True
    """true: only the answer carries loss; false: the prompt too. Set false to reproduce alpaca-lora."""
    join: Literal["joint", "apart"] = "apart"
    """apart: prompt and answer are tokenised one by one; joint: as one text. Take joint to reproduce recipes of
    2023."""
    too_long: Literal["cut", "reject"] = "cut"
    """Rows over the cutoff: cut (they lose their end token, as in the recipes of 2023) or reject. Take reject when a
    cut answer is worse than none."""
    bos: Annotated[str, Field(min_length=1)] = "auto"
    """Token at the start of a row: auto = as the tokenizer does, none, or any token such as "</s>". Set it when the
    base was trained otherwise than its tokenizer says."""
    strip_end: bool = False
    """Drops white space before the end token, as slow tokenizers of 2023 did where a script added it as a word. Set
    it to reproduce such a recipe."""


class Adapter(Section):
    """Each method reads some of these keys (docs/methods.md); one that it does not read must keep its default."""

    method: Annotated[str, BeforeValidator(check_name)] = "lora"
    """How the base is adapted: lora, full, head, norms, ia3, houlsby, pfeiffer, prefix, prompt, ptuning, none. See
    docs/methods.md for what each trains and needs."""
    r: Width = 16
    """lora: rank of the update. Raise it when the training loss stays high, for much data or a task far from the
    base."""
    alpha: Annotated[float, BeforeValidator(number), Field(gt=0, allow_inf_nan=False)] = 32.0
    """lora: the update is scaled by alpha / r. Keep alpha / r when you change r."""
    dropout: Annotated[float, BeforeValidator(number), Field(ge=0, lt=1)] = 0.0
    """lora: dropout on the adapter's input while training. Raise it when the held-out loss rises during a long run."""
    targets: tuple[str, ...] = ("all-linear",)
    """lora, ia3: names of the linear layers that are adapted; all-linear: for lora every one but the output head,
    for ia3 those of its paper. Name fewer for a smaller adapter."""
    last_blocks: Count = 0
    """lora, houlsby, pfeiffer: adapts only the last so many blocks, so that those below need no backward pass; 0 =
    all. Set it when time or memory is short."""
    dora: bool = False
    """lora: direction and size of each weight row are learnt apart (DoRA). Set it for small ranks; it is slower,
    since rows are normalised in each pass."""
    rslora: bool = False
    """lora: the update is scaled by alpha / sqrt(r). Set it for large ranks."""
    init: Literal["default", "pissa", "olora"] = "default"
    """lora: start of A and B; pissa and olora take it from the base's own weights. Set one for faster learning at
    the beginning."""
    lora_plus: Annotated[float, BeforeValidator(number), Field(gt=0, allow_inf_nan=False)] = 1.0
    """lora: learning rate of B as a multiple of A's (LoRA+); 1 = the same. Its authors take 16."""
    bottleneck: Width = 64
    """houlsby, pfeiffer: inner size. Raise it as you would raise the rank of LoRA."""
    virtual_tokens: Width = 20
    """prefix, prompt, ptuning: number of trained tokens before each row. Raise it for tasks that need longer
    instructions; they take room in the context."""
    shots: Shots = 4
    """none: number of training rows, with their answers, before each question. Raise it where the context has room."""


class Train(Section):
    batch_size: Positive = 32
    """Rows in an optimiser step, exactly; the size of a micro-batch does not change it. Raise it for smoother steps,
    with a larger lr."""
    epochs: Annotated[float, BeforeValidator(number), Field(gt=0, le=10**6, allow_inf_nan=False)] = 1.0
    """Passes over the training rows. Raise it for few rows, as long as the held-out loss falls."""
    accumulation_4_28: Count = 0
    """Counts steps as the Trainer of transformers 4.28 did with this gradient_accumulation_steps: what an epoch
    leaves over goes into the next epoch's first step; 0 = an epoch ends with a smaller step. Set it to reproduce
    such a run."""
    max_steps: Count = 0
    """Stops after this many optimiser steps; 0 = as many as `epochs` gives. Set it for a short trial."""
    lr: Rate = 2e-4
    """Peak learning rate of AdamW. Lower it when the loss jumps, and to about a tenth for adapter.method=full."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """Course of the learning rate after the warm-up. Take constant for a run that you may want to continue."""
    warmup: Rate = 0.03
    """Steps over which the learning rate rises from 0: below 1 a share of all steps, else a number of steps. Raise
    it when the loss jumps at the beginning."""
    weight_decay: Rate = 0.0
    """Weight decay of AdamW; biases and norms are left out as in Hugging Face's Trainer, so with
    adapter.method=norms everything. Set it for long runs with adapter.method=full."""
    l2_sp: Rate = 0.0
    """Penalty on the squared distance of the weights from their start (L2-SP), against forgetting; 0 = none. Raise
    it when the model forgets (docs/forgetting.md)."""
    ewc: Rate = 0.0
    """Penalty as `l2_sp`, with each weight counted by its Fisher information on general data (EWC); 0 = none. At 1 a
    nat of divergence costs as much as a nat of loss."""
    ewc_data: str = ""
    """General text for `ewc` (plain, or JSONL with `text`); empty = training rows of sources marked `rehearsal`. Set
    it when there are no such sources."""
    clip: Rate = 1.0
    """Largest norm of the gradient, to which larger ones are scaled; 0 = no clipping. Lower it when the loss jumps."""
    seed: Seed = 42
    """Chooses the order of rows, the start of the adapter and dropout. Change it to see how much a result varies."""
    fast: bool = True
    """true: rows in packs without padding, the template's fixed text computed once a pack, fused kernels; false:
    rows padded, transformers and peft as they are, with the same loss and gradients up to rounding. Set false to
    look for the cause of a difference."""
    graphs: bool = True
    """Records a small model's passes as CUDA graphs on the fast path, since starting kernels takes longer than
    computing there. Set false when memory is short."""
    checkpointing: Literal["auto", "none", "block", "offload"] = "auto"
    """What blocks keep for the backward pass: none = everything is kept; block = a quarter, the rest is computed
    again; offload = that, in main memory; auto = all that fits. Set one when auto chooses wrongly."""
    micro_tokens: Count = 0
    """Most tokens in a micro-batch; 0 = chosen from memory. Lower it when memory runs out."""
    eval_every: Count = 0
    """Steps between two measurements of the held-out loss and sample answers; 0 = a quarter of the run. Lower it to
    see more of a long run."""
    eval_rows: Positive = 64
    """Held-out rows for the loss while training; the final table uses all of them. Raise it for a smoother curve."""
    save_every: Count = 0
    """Steps between checkpoints; 0 = a twelfth of the run. Lower it where a run may be stopped at any time."""
    keep: Positive = 2
    """Number of checkpoints that are kept. Raise it to go back further; each holds the weights and AdamW's moments."""
    tracker: Literal[
        "tensorboard", "wandb", "mlflow", "trackio", "comet_ml", "aim", "clearml", "dvclive", "swanlab", "none"
    ] = "tensorboard"
    """Where Accelerate sends metrics; metrics.jsonl is always written. Set the one that your team uses."""


class Export(Section):
    dtype: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    """Type of the merged weights; auto = the type of training. Set fp16 for programs that cannot read bf16."""
    min_eos: Share = 0.5
    """Least share of sample answers that must end by themselves; with fewer the export is marked as unfinished. Set 0
    to never mark it."""


class Chat(Section):
    max_new_tokens: Length = 512
    """Longest answer in tokens. Raise it when answers are cut off."""
    temperature: Rate = 0.0
    """Sampling temperature; 0 = always the likeliest token. Raise it for varied answers."""
    adapter: Annotated[str, AfterValidator(adapter_name)] = ""
    """Name in the adapter store (`make adapters`) whose adapter is put on the base; empty = the run's export. Set it
    to talk to a stored adapter."""


class Config(Section):
    name: Name
    """Name of the run, whose folder is runs/NAME. Choose a new one for every experiment that you want to keep."""
    model: Model = Model()
    data: Data = Data()
    prompt: Prompt = Prompt()
    adapter: Adapter = Adapter()
    train: Train = Train()
    eval: Eval = Eval()
    export: Export = Export()
    chat: Chat = Chat()
    compare: Compare = Compare()
    judge: Judge = Judge()

    def value(self, key: str) -> Any:
        """The value at a dotted key such as `train.lr`, as plain data."""
        value: Any = self.model_dump(mode="json")
        for name in key.split("."):
            value = value[name]
        return value
