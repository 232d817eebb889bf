"""Every key of a run's config: its type, its default, what it is and when to change it.

A config file holds only what differs from these defaults; `key=value` words on the command line come on top. `load`
reads both and reports every problem at once, each with its line and the nearest key that exists.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from pipeline.config.chat_forms import is_chat
from pipeline.config.data import Benchmark, Data, Duplicates, Source
from pipeline.config.evaluation import Compare, Eval, Judge
from pipeline.config.methods import check_name
from pipeline.config.rope import check_rope
from pipeline.config.serving import Chat, Serve
from pipeline.config.synthesis import Synthesis
from pipeline.config.values import (  # fmt: skip
    Action,
    Count,
    Factor,
    Name,
    Positive,
    Rate,
    Section,
    Seed,
    Share,
    Shots,
    Width,
    iso_date,
    number,
)

__all__ = [
    "Action", "Adapter", "Benchmark", "Chat", "Compare", "Config", "Data", "Duplicates", "Eval", "Export", "Judge",
    "Model", "Prompt", "Section", "Serve", "Source", "Synthesis", "Train",
]  # fmt: skip

DATE = "2024-07-26"  # the one that Llama 3.1's template has as its default


class Model(Section):
    """The base model, and the types in which it is loaded."""

    base: str = ""
    """The model that is tuned: a hub id, a folder with safetensors, or a .gguf file of a causal language model. Set
    it in every config; only `data` runs without one."""
    revision: str = ""
    """Hub ids: a branch, tag or commit; empty = what the hub's cache holds, else the newest. Set a commit so that a
    run can be repeated."""
    tokenizer: str = ""
    """Folder with tokenizer.model or tokenizer.json; empty = the base's own. Set it when the base comes without one."""
    dtype: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    """Type of the arithmetic: auto = bf16 on a GPU that has it, fp16 with a loss scale on Volta and Turing (T4, V100);
    on a CPU the faster one of bf16 and fp32, which plain LoRA measures before its training and keeps for the run, else
    fp32. Set fp32 to tell rounding from other causes."""
    quantize: Literal["none", "int8", "nf4", "fp8"] = "none"
    """Type of the frozen base's weights: int8 and nf4 (bitsandbytes) need less memory, fp8 is faster on Hopper GPUs
    and newer. Set nf4 when memory is short, fp8 for speed."""
    geometry: dict[str, Any] | None = None
    """Shape of the model, as in config.json (model_type is required). Set it beside `base` so that `plan` works
    before the base is downloaded, or alone for random weights of that shape (tests, benchmarks)."""
    rope_scaling: Annotated[dict[str, Any] | None, BeforeValidator(check_rope)] = None
    """Scaled rotary positions as transformers has them in `rope_parameters`, such as {rope_type: yarn, factor: 4}:
    rope_type (linear, yarn, llama3, dynamic), factor, and the type's further keys. The context becomes that of the base
    times factor, in training, export and chat; dynamic lengthens only the export's. Set it for rows that are longer
    than the base's context."""
    add_tokens: tuple[str, ...] = ()
    """New special tokens: appended to the vocabulary, initialised with the mean embedding, trained and exported. Set
    it when your template uses special tokens that the base does not have."""


class Prompt(Section):
    """How a row becomes tokens."""

    template: Annotated[str, Field(min_length=1)] = "alpaca"
    """Name of a built-in template, `base` for the chat template that the base ships, or path of your own: a YAML file
    for rows, a .jinja file for conversations. Choose `base` for a base that was tuned for chat."""
    loss: Literal["answers", "last", "all"] = "answers"
    """Chat templates: what carries loss, every answer of a conversation, the last one, or all text except tool results.
    Set last when the earlier answers are not worth learning."""
    date: Annotated[str, AfterValidator(iso_date)] = DATE
    """Chat templates that write today's date (Llama 3.2, SmolLM3): the date that they write instead, in training, chat
    and export. Set it when answers depend on the date."""
    cutoff: Annotated[int, BeforeValidator(number), Field(ge=4, le=1 << 20)] = 512
    """Most tokens in a row: prompt, answer and end token together. Raise it when the data report shows that many rows
    are cut; memory and time grow with it."""
    mask_prompt: bool = True
    """true: only the answer carries loss; false: the prompt does, too. Set false to reproduce alpaca-lora."""
    join: Literal["joint", "apart"] = "apart"
    """apart: prompt and answer are tokenised separately; joint: as one text. Set joint to reproduce recipes of
    2023."""
    too_long: Literal["cut", "reject", "split"] = "cut"
    """What happens to rows longer than `cutoff`: cut (the end token is lost, as in recipes of 2023; a conversation in a
    chat template loses whole turns from its end), reject, or split (chat templates: several rows that repeat some
    history). Set reject when an incomplete answer is worse than none, split for long conversations."""
    bos: Annotated[str, Field(min_length=1)] = "auto"
    """Token at the start of a row: auto = what the tokenizer adds, none, or any token such as "</s>". Set it when the
    base was trained with another start than its tokenizer adds."""
    strip_end: bool = False
    """Removes white space before the end token, as slow tokenizers of 2023 did when a script added that token as text.
    Set it to reproduce such a recipe."""

    @property
    def is_chat(self) -> bool:
        """Whether the template renders whole conversations; the data stage then keeps them whole."""
        return is_chat(self.template)


class Adapter(Section):
    """How the base is adapted. A method reads the keys that name it; the others must keep their defaults."""

    method: Annotated[str, BeforeValidator(check_name)] = "lora"
    """What is trained: low-rank updates (lora), every weight (full), or less (docs/methods.md compares them). Change
    it to full when LoRA is not enough and memory allows, to none to measure examples in the prompt."""
    r: Width = 16
    """lora: rank of the update. Raise it when the training loss stays high, as with much data or a task that is new
    to the base."""
    alpha: Factor = 32.0
    """lora: the update is scaled by alpha / r. Change it together with r, so that alpha / r stays the same."""
    dropout: Annotated[float, BeforeValidator(number), Field(ge=0, lt=1)] = 0.0
    """lora: dropout on the adapter's input while training. Raise it when the held-out loss rises during a long run."""
    targets: tuple[str, ...] = ("all-linear",)
    """lora, ia3: names of the linear layers that are adapted; all-linear = for lora every one except the output head,
    for ia3 those of its paper. Name fewer, such as [q_proj, v_proj], for a smaller adapter."""
    last_blocks: Count = 0
    """lora, houlsby, pfeiffer: number of blocks that are adapted, counted from the last; those below need no backward
    pass; 0 = all. Set it when time or memory is short."""
    dora: bool = False
    """lora: direction and length of each weight row are learnt separately (DoRA). Set it for small ranks; it is
    slower, since rows are normalised in each pass."""
    rslora: bool = False
    """lora: the update is scaled by alpha / sqrt(r). Set it for large ranks."""
    init: Literal["default", "pissa", "olora"] = "default"
    """lora: initial values of A and B; pissa and olora compute them from the base's weights. Set one of these for
    faster learning at the beginning."""
    lora_plus: Factor = 1.0
    """lora: learning rate of B as a multiple of A's (LoRA+); 1 = the same. Raise it for faster learning; its authors
    use 16."""
    bottleneck: Width = 64
    """houlsby, pfeiffer: inner size of an adapter. Raise it when the training loss stays high."""
    virtual_tokens: Width = 20
    """prefix, prompt, ptuning: number of trained tokens before each row. Raise it when the training loss stays high;
    they take space in the context."""
    shots: Shots = 4
    """none: number of training rows, with their answers, before each question. Raise it when the context has space
    for more."""


class Train(Section):
    """Optimisation, memory, checkpoints, and what is measured while training."""

    batch_size: Positive = 32
    """Rows in an optimiser step; the size of a micro-batch does not change it. Raise it for smoother steps, together
    with lr."""
    epochs: Annotated[float, BeforeValidator(number), Field(gt=0, le=10**6, allow_inf_nan=False)] = 1.0
    """Passes over the training rows. Raise it for few rows, as long as the held-out loss falls."""
    accumulation_4_28: Count = 0
    """Counts steps as the Trainer of transformers 4.28 did with this gradient_accumulation_steps: rows left over at
    the end of an epoch go into the next epoch's first step; 0 = an epoch ends with a smaller step. Set it to reproduce
    such a run."""
    max_steps: Count = 0
    """Stops after this many optimiser steps; 0 = as many as `epochs` gives. Set it for a short trial."""
    lr: Rate = 2e-4
    """Peak learning rate. Lower it when the loss jumps, and to about a tenth for adapter.method=full."""
    optimizer: Literal["adamw", "adamw8bit", "paged_adamw8bit", "adafactor"] = "adamw"
    """adamw8bit keeps AdamW's moments in 8 bits, paged_adamw8bit also moves them to main memory when the card is full
    (both of bitsandbytes); adafactor keeps a row and a column for each matrix. Change it when memory is short for
    adapter.method=full, or to reproduce a recipe."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """Course of the learning rate after the warm-up. Set constant for a run that you may want to continue."""
    warmup: Rate = 0.03
    """Steps in which the learning rate rises from 0: below 1 a share of all steps, else a number of steps. Raise it
    when the loss jumps at the beginning."""
    weight_decay: Rate = 0.0
    """Weight decay; biases and norms are left out, as in Hugging Face's Trainer. Set it for long runs with
    adapter.method=full."""
    l2_sp: Rate = 0.0
    """Penalty on the squared distance of the weights from their start (L2-SP), against forgetting; 0 = none. Raise
    it when the model forgets (docs/forgetting.md)."""
    ewc: Rate = 0.0
    """Penalty as `l2_sp`, with each weight's distance multiplied by its Fisher information on general data (EWC); 0 =
    none. Raise it when the model forgets; at 1 a nat of divergence costs as much as a nat of loss."""
    ewc_data: str = ""
    """General text for `ewc` (plain, or JSONL with `text`); empty = training rows of sources marked `rehearsal`. Set
    it when there are no such sources."""
    neftune: Rate = 0.0
    """Uniform noise on the embeddings of training rows, scaled by this / sqrt(tokens of the row x hidden size)
    (NEFTune); 0 = none. Each row has its own noise, so packs do not share the template's fixed text. Set it, such as 5,
    when few rows are learnt by heart."""
    clip: Rate = 1.0
    """Largest norm of the gradient, to which larger ones are scaled; 0 = no clipping. Lower it when the loss jumps."""
    seed: Seed = 42
    """Chooses the order of rows, the start of the adapter and dropout. Change it to see how much a result varies."""
    fast: bool = True
    """true: rows in packs without padding, the template's fixed text computed once for each pack, fused kernels;
    false: padded rows through transformers and peft, with the same loss and gradients up to rounding. Set false to
    find the cause of a difference."""
    graphs: bool = True
    """On the fast path, records passes as CUDA graphs where launching their kernels takes longer than computing them,
    which is measured before the first step. Set false when memory is short."""
    checkpointing: Literal["auto", "none", "block", "offload", "stream"] = "auto"
    """What blocks keep for the backward pass: none = everything (no checkpointing); block = a quarter, the rest is
    recomputed; offload = a quarter, in main memory; stream = as block, and the frozen blocks themselves are in main
    memory; auto = the fastest that fits. Set another one to trade speed for memory."""
    shard: Literal["auto", "none", "full"] = "auto"
    """Several cards: none = each holds the whole base; full = each holds a part of it, and with adapter.method=full
    also of gradients and moments (FSDP); auto = full where one card is too small. Set full for weights that fit no
    single card (docs/scaling.md)."""
    gpu_memory: Annotated[float, BeforeValidator(number), Field(ge=0, le=4096)] = 0.0
    """GiB of the card that training may use, and that `plan` plans for; 0 = all that is free. Set it to share a card,
    or to ask `plan` about another one."""
    micro_tokens: Count = 0
    """Most tokens in a micro-batch; 0 = chosen from memory. Lower it when memory runs out."""
    eval_every: Count = 0
    """Steps between two measurements of the held-out loss and sample answers; 0 = a quarter of the run. Lower it to
    see more of a long run."""
    early_stop: Count = 0
    """Ends the run when the held-out loss has not reached a new lowest value in this many measurements (`eval_every`);
    0 = never. Set it, such as 3, with a small eval_every, when you do not know how many epochs the data are worth."""
    best: bool = False
    """true: what is exported are the weights of the lowest held-out loss; those of the last step are kept in
    adapter/last. Set it for long runs on few rows, whose held-out loss rises again."""
    eval_rows: Positive = 64
    """Held-out rows for the loss while training; the final table uses all of them. Raise it for a smoother curve."""
    save_every: Count = 0
    """Steps between checkpoints; 0 = a twelfth of the run. Lower it where a run may be stopped at any time."""
    keep: Positive = 2
    """Number of checkpoints that are kept. Raise it to go back further; each holds the trained weights and AdamW's
    moments."""
    tracker: Literal[
        "tensorboard", "wandb", "mlflow", "trackio", "comet_ml", "aim", "clearml", "dvclive", "swanlab", "none"
    ] = "tensorboard"
    """Where Accelerate sends metrics; metrics.jsonl is always written. Set the tracker that your team uses; its package
    must be installed."""


class Export(Section):
    """The merged checkpoint."""

    dtype: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    """Type of the merged weights; auto = the type of training. Set fp16 for programs that cannot read bf16."""
    merge_into: Literal["dequantized", "original"] = "dequantized"
    """Weights that the update of a base in nf4 or int8 is added to: dequantized = those that training saw, so that the
    export answers as trained; original = those of the base's files, which differ by the error of quantisation. Set
    original for a base whose dequantised weights are worse, or where memory is too small for them."""
    min_eos: Share = 0.5
    """Smallest share of sample answers that must end by themselves; with fewer the export is marked as unfinished. Set
    0 to never mark it."""
    formats: tuple[Literal["hf", "adapter", "gguf"], ...] = ("hf",)
    """What is written: hf = the Hugging Face checkpoint, which must be among them; adapter = also the PEFT adapter
    alone; gguf = also a file for llama.cpp and Ollama. Set [hf, gguf] to run the result in these."""
    gguf: Literal["f16", "bf16", "q8_0", "q4_k_m"] = "f16"
    """Type of the weights in the GGUF file; q4_k_m needs `llama-quantize` of llama.cpp. Set q8_0 for half the size of
    f16, q4_k_m for a third."""


class Config(Section):
    name: Name
    """Name of the run; its folder is runs/NAME. Change it for every experiment that you want to keep."""
    model: Model = Model()
    data: Data = Data()
    prompt: Prompt = Prompt()
    adapter: Adapter = Adapter()
    train: Train = Train()
    eval: Eval = Eval()
    export: Export = Export()
    chat: Chat = Chat()
    serve: Serve = Serve()
    compare: Compare = Compare()
    judge: Judge = Judge()
    synthesis: Synthesis = Synthesis()

    def value(self, key: str) -> Any:
        """The value at a dotted key such as `train.lr`, as plain data."""
        value: Any = self.model_dump(mode="json")
        for name in key.split("."):
            value = value[name]
        return value
