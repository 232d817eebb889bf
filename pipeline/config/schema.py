"""Every knob of a run: its name, type, default and when to change it.

A config file holds only what differs from these defaults; `key=value` words on the command line come on top.
`load` reads both and reports every problem at once, with its line and the nearest key that exists.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field

from pipeline.config.compare import Compare, Judge
from pipeline.config.methods import check_name
from pipeline.config.values import (
    MOST,
    SECTION,
    Action,
    Count,
    Length,
    Name,
    Positive,
    Rate,
    Repeats,
    Seed,
    Share,
    Shots,
    Width,
    adapter_name,
    count_or_share,
    number,
)


class Section(BaseModel):
    model_config = SECTION


class Model(Section):
    base: str = ""
    """Hub id, folder with safetensors, or .gguf file of a causal language model."""
    revision: str = ""
    """Hub ids: a branch, tag or commit. Empty: what the hub's cache holds, else the newest."""
    tokenizer: str = ""
    """Folder with tokenizer.model or tokenizer.json; empty = the base's own."""
    dtype: Literal["auto", "bf16", "fp32"] = "auto"
    """Arithmetic: auto = bf16 on a GPU that has it, fp32 on a CPU (where bf16 is far slower)."""
    quantize: Literal["none", "int8", "nf4", "fp8"] = "none"
    """Frozen base in 8 or 4 bits (bitsandbytes), when memory is short; fp8, for speed, on Hopper cards and newer."""
    geometry: dict[str, Any] | None = None
    """Shape of the model (keys of config.json, with model_type). Beside a base: for `make plan` without its files.
    Without a base: random weights of that shape, for tests and benchmarks."""
    add_tokens: tuple[str, ...] = ()
    """New special tokens: appended to the vocabulary, started at the mean embedding, trained and saved."""


class Source(Section):
    needs: ClassVar[tuple[str, ...]] = ("instruction", "output")
    """Our fields without which a row is none. Not a key: questions (`pipeline.comparison`) need no output."""
    path: Annotated[str, Field(min_length=1)]
    """A file, a glob such as data/*.jsonl.gz, a folder or hub id that `datasets` loads, or `families`."""
    columns: dict[Literal["instruction", "input", "output", "task"], str] = {}
    """What our fields are called there: {instruction: Q, output: A}. For CSV and for forms not known by name."""
    subset: str = ""
    """Hub data sets that come in several: which."""
    revision: str = ""
    """Hub data sets: a branch, tag or commit. Empty: the newest."""
    split: Annotated[str, Field(min_length=1)] = "train"
    """Hub data sets and folders: which of their splits."""
    language: Literal["", "en", "ko"] = ""
    """The language this source should be in; rows in another are caught by the rule `wrong-language`."""
    task: str = ""
    """Task of rows that name none."""
    limit: Positive | None = None
    """Take at most this many rows, chosen by content hash after all that is removed was removed."""
    weight: Annotated[float, BeforeValidator(number), Field(ge=1e-9, le=MOST)] | None = None
    """Share of the training rows relative to the other weighted sources; the scarcest one is used up."""
    repeat: Repeats = 1
    """Each training row stands this many times in train.jsonl."""
    rehearsal: bool = False
    """General data against forgetting: it makes up `data.rehearsal` of the training rows."""
    rows: Positive | None = None
    """families: how many to make. Elsewhere: how many there should be, for `make plan` without the data."""
    exact: bool = False
    """Every output is the only right answer, so that exact match is counted on these rows."""


class Duplicates(Section):
    exact: bool = True
    """Reject rows equal to an earlier one, letter case, Unicode form and white space aside."""
    near: Share = 0.8
    """Reject rows whose shingles overlap this much (Jaccard) with an earlier one that was kept; 0 = do not look."""
    shingle: Annotated[int, BeforeValidator(number), Field(ge=1, le=20)] = 3
    """Words in a shingle (letters in Korean, at least 3). 1 compares sets of words: it also finds rows in other words'
    order, and takes rows that fill one form with different words for alike."""
    novelty: Share = 0.0
    """Reject rows whose instruction has a ROUGE-L F above this against one that was kept. Stanford's filter: 0.7."""


class Benchmark(Section):
    path: Annotated[str, Field(min_length=1)]
    """A file or glob with questions: ARC, HellaSwag, MMLU, TruthfulQA, KoBEST, or your own list."""
    name: str = ""
    """How reports call it; empty = the file's name."""
    field: str = ""
    """Where the question stands, when the file's form is not known."""


class Data(Section):
    sources: tuple[Source, ...] = ()
    """Where rows come from, in this order."""
    clean: Literal["standard", "none"] = "standard"
    """standard: every rule does what its own default says. none: texts stay as they are (the recipes of 2023)."""
    rules: dict[str, Action] = {}
    """One by one, on top of `clean`: {refusal: on, cut-off: off}. on: fixes or rejects. warn: only reports."""
    duplicates: Duplicates = Duplicates()
    benchmarks: tuple[Benchmark, ...] = ()
    """Test questions that must not be trained on; rows that hold one are rejected."""
    val: Annotated[int | float, BeforeValidator(count_or_share), Field(ge=0, le=MOST)] = 0
    """Rows kept out of training for the held-out loss, chosen by content hash. Below 1: a share, and then no row
    changes sides when the data grows. 1 and above: exactly so many."""
    val_exact_only: bool = False
    """Take the held-out rows only from sources marked `exact`."""
    groups: dict[str, tuple[str, ...]] = {}
    """Groups of tasks, as FLAN has them: {maths: [add, "percent-*"]}."""
    holdout: tuple[str, ...] = ()
    """Tasks, or groups of them, never trained on: all their rows are measured apart, for transfer to unseen tasks."""
    task_limit: Positive | None = None
    """At most so many training rows of one task (FLAN: 3,000), chosen by content hash."""
    rehearsal: Annotated[float, BeforeValidator(number), Field(ge=0, lt=1)] = 0.0
    """Share of the training rows that comes from sources marked `rehearsal`."""
    engine: Literal["local", "ray"] = "local"
    """ray: the work on rows is spread over a Ray cluster (extra `ray`); the result is the same."""
    seed: Seed = 42
    """Chooses the held-out rows, and which rows stay where there are too many."""


class Prompt(Section):
    template: Annotated[str, Field(min_length=1)] = "alpaca"
    """Name of a built-in template or path of a YAML file with your own."""
    cutoff: Annotated[int, BeforeValidator(number), Field(ge=4, le=1 << 20)] = 512
    """Most tokens in a row, prompt, answer and end token together."""
    mask_prompt: bool = True
    """true: only the answer carries loss. alpaca-lora trained on the prompt too."""
    join: Literal["joint", "apart"] = "apart"
    """joint: prompt and answer are tokenised as one text (reference recipes). apart: one by one."""
    too_long: Literal["cut", "reject"] = "cut"
    """Rows over the cutoff: cut (they lose their end token, as in the references) or reject."""
    bos: Annotated[str, Field(min_length=1)] = "auto"
    """auto: as the tokenizer does. none: never. Any token, such as "</s>": that one."""
    strip_end: bool = False
    """Drops white space in front of the end token, as slow tokenizers of 2023 did where a script added it as a word."""


class Adapter(Section):
    """Each method reads some of these keys (docs/methods.md); one that it does not read must keep its default."""

    method: Annotated[str, BeforeValidator(check_name)] = "lora"
    """lora, full, head, norms, ia3, houlsby, pfeiffer, prefix, prompt, ptuning, none: see docs/methods.md."""
    r: Width = 16
    """lora: rank."""
    alpha: Annotated[float, BeforeValidator(number), Field(gt=0, allow_inf_nan=False)] = 32.0
    """lora: scale of the update is alpha / r."""
    dropout: Annotated[float, BeforeValidator(number), Field(ge=0, lt=1)] = 0.0
    """lora: on the adapter's input while training."""
    targets: tuple[str, ...] = ("all-linear",)
    """lora, ia3: names of linear modules. all-linear: for lora every one but the output head, for ia3 the paper's."""
    last_blocks: Count = 0
    """lora, houlsby, pfeiffer: adapt only the last so many blocks; those below need no backward pass. 0 = all."""
    dora: bool = False
    """lora: direction and size of each weight row learn apart. Slower: rows are normalised anew in each pass."""
    rslora: bool = False
    """lora: scale of the update is alpha / sqrt(r), for large ranks."""
    init: Literal["default", "pissa", "olora"] = "default"
    """lora: where A and B start. pissa, olora: from the base's own weights, which learns faster at the beginning."""
    lora_plus: Annotated[float, BeforeValidator(number), Field(gt=0, allow_inf_nan=False)] = 1.0
    """lora: B learns so many times as fast as A (LoRA+; its authors take 16). 1 = alike."""
    bottleneck: Width = 64
    """houlsby, pfeiffer: inner size."""
    virtual_tokens: Width = 20
    """prefix, prompt, ptuning: how many stand in front of each row."""
    shots: Shots = 4
    """none: how many training rows, with their answers, stand in front of each question."""


class Train(Section):
    batch_size: Positive = 32
    """Examples per optimiser step, exactly."""
    epochs: Annotated[float, BeforeValidator(number), Field(gt=0, le=10**6, allow_inf_nan=False)] = 1.0
    """Passes over the training rows."""
    accumulation_4_28: Count = 0
    """Counts steps as the Trainer of 2023 did (transformers 4.28) with this gradient_accumulation_steps: what an epoch
    leaves over goes into the next epoch's first step. 0: as today's, an epoch ends with a smaller step."""
    max_steps: Count = 0
    """Stop after this many optimiser steps; 0 = as many as `epochs` says."""
    lr: Rate = 2e-4
    """Peak learning rate of AdamW."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """What follows the warm-up."""
    warmup: Rate = 0.03
    """Below 1: share of all steps. 1 and above: steps."""
    weight_decay: Rate = 0.0
    """AdamW's. As in Hugging Face's Trainer it leaves out biases and norms, so with adapter.method=norms everything."""
    l2_sp: Rate = 0.0
    """Against forgetting: strength of a penalty on the squared distance of the weights from their start."""
    ewc: Rate = 0.0
    """As l2_sp, each weight by its Fisher information on general data. 1: a nat of divergence costs one of loss."""
    ewc_data: str = ""
    """General text for `ewc` (plain, or JSONL with `text`); empty = training rows of sources marked `rehearsal`."""
    clip: Rate = 1.0
    """Largest gradient norm; 0 = no clipping."""
    seed: Seed = 42
    """Order of rows, start of the adapter, dropout."""
    fast: bool = True
    """Rows in packs without padding, the template's fixed text computed once a pack, fused kernels. false: transformers
    and peft as they are, rows padded; the same loss and gradients up to rounding."""
    graphs: bool = True
    """On the fast path, CUDA graphs of a small model's passes, where starting kernels takes longer than computing."""
    checkpointing: Literal["auto", "none", "block", "offload"] = "auto"
    """What blocks keep: all; a quarter (the rest is computed again); that, in main memory; auto = all that fits."""
    micro_tokens: Count = 0
    """Most tokens that go through the model at once; 0 = chosen from memory."""
    eval_every: Count = 0
    """Steps between held-out loss and sample answers; 0 = a quarter of the run."""
    eval_rows: Positive = 64
    """Held-out rows used for the loss while training; the final table uses all of them."""
    save_every: Count = 0
    """Steps between checkpoints; 0 = a twelfth of the run."""
    keep: Positive = 2
    """Checkpoints kept."""
    tracker: Literal[
        "tensorboard", "wandb", "mlflow", "trackio", "comet_ml", "aim", "clearml", "dvclive", "swanlab", "none"
    ] = "tensorboard"
    """Where Accelerate sends metrics; metrics.jsonl is always written."""


class Eval(Section):
    rows: Positive = 200
    """Held-out rows (and half as many of the held-out tasks) measured on base and tuned model."""
    max_new_tokens: Length = 64
    """Longest answer in the measurements."""
    general: str = ""
    """Text on which forgetting is measured: a passage a line, or JSONL with `text`; empty = the built-in one."""
    general_windows: Positive = 48
    """Of at most 256 tokens each, spread over that text; 48 take a 135M model half a minute on two cores."""
    prompts: tuple[str, ...] = (
        "Give three tips for staying healthy.",
        "What is the capital of France?",
        "Write a short thank-you note to a neighbour.",
    )
    """Answered by base and tuned model at the end of `make export`."""
    tasks: tuple[str, ...] = (
        "arc_easy", "arc_challenge", "hellaswag", "mmlu", "truthfulqa_mc1", "truthfulqa_mc2", "lambada_openai",
        "kobest",
    )  # fmt: skip
    """Benchmarks of `make eval`, by lm-evaluation-harness's names; [] = none."""
    task_files: str = ""
    """Folder with their questions (docs/evaluation.md); empty = the harness fetches them from the hub."""
    limit: Count = 0
    """First so many questions of each benchmark, for a quick look; 0 = all."""
    num_fewshot: Shots = 0
    """Examples in front of each benchmark question, out of its training rows; 0 = the task's own number."""
    prompting: Literal["plain", "template"] = "plain"
    """plain: benchmark questions as the harness words them. template: inside the training template."""
    batch_size: Count = 0
    """Benchmark questions at once; 0 = from memory."""
    shots: Shots = 4
    """Training rows in front of each held-out question to the base: in-context learning, which tuning has to beat."""


class Export(Section):
    dtype: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    """Of the merged weights; auto = as trained."""
    min_eos: Share = 0.5
    """Least share of probe answers that must end by themselves; 0 = report only."""


class Chat(Section):
    max_new_tokens: Length = 512
    temperature: Rate = 0.0
    """0 = always the likeliest token."""
    adapter: Annotated[str, AfterValidator(adapter_name)] = ""
    """Name in the adapter store (`make adapters`): talk to the base with that adapter. Empty: to the run's export."""


class Config(Section):
    name: Name
    """The run folder is runs/NAME."""
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
        found: Any = self.model_dump(mode="json")
        for part in key.split("."):
            found = found[part]
        return found
