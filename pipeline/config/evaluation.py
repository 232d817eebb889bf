"""The sections `eval`, `compare` and `judge` of a config: what is measured on base and tuned model."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from pipeline.config.values import (  # fmt: skip
    Count,
    Length,
    Positive,
    Rate,
    Section,
    Shots,
    number,
    plain_url,
    variable_name,
)


class Eval(Section):
    """What is measured on base and tuned model, by `export` and `eval`."""

    rows: Positive = 200
    """Held-out rows on which base and tuned model are measured, and half as many of the held-out tasks. Raise it for
    smaller errors; the time grows with it."""
    max_new_tokens: Length = 64
    """Longest answer in the measurements, in tokens. Raise it when the reference answers are longer."""
    general: str = ""
    """Text on which forgetting is measured: a passage a line, or JSONL with `text`; empty = the built-in passages.
    Name a text of your own domain when the built-in one says little about it."""
    general_windows: Positive = 48
    """Windows of at most 256 tokens, spread over the general text; 48 take a 135M model half a minute on two cores.
    Raise it for a smaller error of the forgetting."""
    prompts: tuple[str, ...] = (
        "Give three tips for staying healthy.",
        "What is the capital of France?",
        "Write a short thank-you note to a neighbour.",
    )
    """Questions that base and tuned model answer at the end of the export. Replace them by typical questions of your
    users."""
    known: str = ""
    """File of questions that the base may answer right already and of everyday requests, to see what tuning lost
    (docs/forgetting.md); empty = the built-in ones, none = not asked. Name your own for another language or domain."""
    tasks: tuple[str, ...] = (
        "arc_easy", "arc_challenge", "hellaswag", "mmlu", "truthfulqa_mc1", "truthfulqa_mc2", "lambada_openai",
        "kobest",
    )  # fmt: skip
    """Benchmarks of `eval`, by the names of lm-evaluation-harness (extra `eval`); [] = none. Name fewer to save time,
    or others that the harness has."""
    task_files: str = ""
    """Folder with the benchmarks' questions (docs/evaluation.md); empty = the harness fetches them from the hub. Set
    it on a machine without network."""
    limit: Count = 0
    """Number of questions of each benchmark, the first ones; 0 = all. Set it for a quick look, not for a result."""
    num_fewshot: Shots = 0
    """Examples before each benchmark question, taken from its training rows; 0 = the task's own number. Set it to
    compare with published numbers."""
    prompting: Literal["plain", "template"] = "plain"
    """plain: benchmark questions as the harness words them; template: inside the training template. Set template to
    measure the model in the form in which it was trained."""
    batch_size: Count = 0
    """Benchmark questions that go through the model at once; 0 = as many as memory allows. Set it on a GPU that others
    use, too."""
    shots: Shots = 4
    """Training rows before each held-out question to the base: in-context learning, which tuning has to beat. Raise
    it for a stronger baseline, if the context has space."""


class Compare(Section):
    """Answers of base and tuned model side by side, by `compare`."""

    questions: tuple[str, ...] = ("data/questions_ko.jsonl", "data/questions_en.jsonl")
    """Question sets for base and tuned model: files, globs, folders or hub ids, in any form that data may have. Name
    your own questions; answers need not be in them."""
    limit: Positive | None = None
    """Number of questions of each set, taken from its categories in turn; null = all. Set it for a quick look."""
    max_new_tokens: Length = 256
    """Longest answer in tokens; questions that leave less space in the model's context are skipped and listed. Raise
    it when answers are cut off."""


class Judge(Section):
    """The model that votes on the answers of `compare`, by `judge`."""

    model: str = ""
    """Name of the judge, as its server knows it. Set it for `judge`, to a model that is stronger than the tuned
    one."""
    base_url: Annotated[str, AfterValidator(plain_url)] = ""
    """Address of the judge's server, such as http://localhost:8000/v1; empty = OpenAI's own. Set it for any other
    server that speaks OpenAI's API."""
    key: Annotated[str, AfterValidator(variable_name)] = ""
    """Name of the environment variable that holds the secret key, which is written to no file; empty = OPENAI_API_KEY
    at OpenAI's own address, none elsewhere. Set it when your key is in another variable."""
    limit: Positive | None = None
    """Number of questions that are judged, taken from the categories in turn; null = all. Set it to bound the cost."""
    temperature: Rate | None = 0.0
    """Sampling temperature of the judge. Set null for models that refuse the field."""
    parallel: Annotated[int, BeforeValidator(number), Field(ge=1, le=256)] = 4
    """Requests that are sent at once. Raise it for a server of your own, lower it when the server says it is busy."""
    retries: Annotated[int, BeforeValidator(number), Field(ge=0, le=100)] = 5
    """Further tries, with growing pauses, when the server is busy, fails or cannot be reached. Raise it for a server
    with long outages."""
    timeout: Annotated[int, BeforeValidator(number), Field(ge=1, le=86_400)] = 120
    """Seconds that one reply may take. Raise it for a slow judge."""
