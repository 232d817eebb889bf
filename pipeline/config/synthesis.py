"""The section `synthesis` of a config: data that a teacher model makes, by `generate`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from pipeline.config.data import Benchmark, Source
from pipeline.config.values import (  # fmt: skip
    Action,
    Count,
    Length,
    Positive,
    Rate,
    Section,
    Seed,
    Share,
    currency_code,
    language_code,
    number,
    plain_url,
    tokens_or_money,
    variable_name,
)

Language = Annotated[str, AfterValidator(language_code)]
Parallel = Annotated[int, BeforeValidator(number), Field(ge=1, le=1024)]
Retries = Annotated[int, BeforeValidator(number), Field(ge=0, le=100)]
Seconds = Annotated[int, BeforeValidator(number), Field(ge=1, le=86_400)]


class Price(Section):
    """What a teacher costs, in money for a million tokens."""

    input: Rate | None = None
    """For a million tokens of the prompt; null = not known. Set it from the provider's list of prices."""
    output: Rate | None = None
    """For a million tokens of the reply; null = not known. Set it from the provider's list of prices."""
    currency: Annotated[str, AfterValidator(currency_code)] = "USD"
    """Three letters, such as USD or KRW. Set it to the currency of the provider's list."""


class Asked(Section):
    """A model that is asked through `kind`: where it is, and how it is asked."""

    kind: Literal["api", "batch", "local"] = "api"
    """api: a server that speaks OpenAI's API; batch: its batch files, which take up to a day and cost half; local: a
    model on this machine. Set batch for large sets, local to need no server."""
    model: str = ""
    """Name of the model, as its server knows it; for local: a hub id, a folder or a .gguf file. Set it for
    `generate`."""
    base_url: Annotated[str, AfterValidator(plain_url)] = ""
    """Address of the server, such as http://localhost:8000/v1; empty = OpenAI's own. Set it for any other server that
    speaks OpenAI's API."""
    key: Annotated[str, AfterValidator(variable_name)] = ""
    """Name of the environment variable that holds the secret key, which is written to no file; empty = OPENAI_API_KEY
    at OpenAI's own address, none elsewhere. Set it when your key is in another variable."""
    temperature: Rate | None = 0.7
    """Sampling temperature. Set null for models that refuse the field."""
    max_tokens: Length = 2048
    """Longest reply in tokens. Raise it when replies are cut off; the budget reserves this much for each request."""
    context: Count = 0
    """Tokens that prompt and reply may have together; requests with more (at 4 bytes a token) are not sent. 0 = not
    known, the server says so itself. Set it when the server cuts long prompts without an error."""
    parallel: Parallel = 8
    """Most requests that are sent at once; fewer while the server says that it is busy. A batch takes all that are
    there. Raise it as far as your account allows."""
    retries: Retries = 6
    """Further tries of one request, with growing pauses up to a minute, when the server is busy, fails or cannot be
    reached. Raise it for a server with long outages."""
    timeout: Seconds = 120
    """Seconds that one reply may take. Raise it for a slow model."""
    json_mode: Literal["auto", "schema", "object", "text"] = "auto"
    """How the form of a reply is asked for: schema (the server enforces it), object (any JSON), text (numbered lines);
    auto = schema, and text from the first time that the server refuses it. Set text for models that do not know
    JSON."""
    price: Price = Price()
    """What the model costs, for `plan` and for a budget in money; for batch the price of batches. Set it for a paid
    model."""
    extra: dict[str, Any] = {}
    """Further fields of each request, such as {reasoning_effort: low}. Set it for what your server wants besides."""


class Teacher(Asked):
    """The model that makes the data."""

    terms: str = ""
    """What the provider's terms say about training on replies: one sentence or an address, for the datasheet. Set it
    always; `generate` does not start without it."""


class RowJudge(Asked):
    """A model that rates generated rows, 1 to 5; rows below the bar are rejected with its reason."""

    bar: Annotated[int, BeforeValidator(number), Field(ge=0, le=5)] = 0
    """Smallest rating with which a row is kept; 0 = rows are not rated. Set 4 for fewer and better rows."""
    model: str = ""
    """Name of the judge; empty = the teacher rates its own rows. Set another model, since a model favours its own
    replies."""
    temperature: Rate | None = 0.0
    """Sampling temperature of the judge. Set null for models that refuse the field."""


class Evolve(Section):
    """Makes instructions harder (deeper) or asks for new ones of the same kind (wider), after Evol-Instruct."""

    rounds: Annotated[int, BeforeValidator(number), Field(ge=0, le=5)] = 0
    """How often each kept instruction is evolved; 0 = never. Set 1 or 2 for harder tasks; each round is a request or
    two a row."""
    kinds: tuple[Literal["deeper", "wider"], ...] = ("deeper", "wider")
    """The ways that are taken in turn. Name one to have it alone."""


class Synthesis(Section):
    """Rows that a teacher makes: from seed tasks, by translation, or from documents (docs/synthesis.md)."""

    method: Literal["none", "self-instruct", "translate", "questions"] = "none"
    """self-instruct: new tasks from seed tasks; translate: a data set into another language; questions: questions and
    answers from your documents; none = nothing is generated. Set it for `generate`."""
    rows: Positive = 100
    """Number of rows to keep. Raise it later to add rows: replies that were paid for are used again."""
    budget: Annotated[str, BeforeValidator(tokens_or_money)] = ""
    """Most that may be spent, such as 200000 tokens or 5 USD, all runs of this name together; empty = no limit. Set it
    for every paid teacher; money needs teacher.price."""
    language: Language = "en"
    """Language of the rows, as two or three letters. Set ko for Korean."""
    from_language: Language = ""
    """translate: language of the source; empty = not named in the prompt. Set it when you know it."""
    seeds: tuple[str, ...] = ()
    """self-instruct: files of seed tasks. Name your own for tasks of your domain."""
    seeds_per_prompt: Annotated[int, BeforeValidator(number), Field(ge=1, le=50)] = 3
    """self-instruct: seed tasks that a prompt shows. Raise it for more varied tasks and longer prompts."""
    tasks_per_prompt: Annotated[int, BeforeValidator(number), Field(ge=1, le=50)] = 5
    """self-instruct: new tasks that one request asks for. Lower it for models that lose track."""
    evolve_seeds: bool = False
    """self-instruct: prompts also show tasks that were generated before. Set true for more variety; errors of the
    teacher then spread."""
    sources: tuple[Source, ...] = ()
    """translate: the data set; questions: files of questions with answers. Name them in any form that `data.sources`
    takes."""
    documents: tuple[str, ...] = ()
    """questions: files, globs or folders with text, Markdown, HTML or PDF. Name your own documents."""
    passage: Annotated[int, BeforeValidator(number), Field(ge=100, le=100_000)] = 1500
    """questions: most characters of a passage that questions are asked about. Raise it for questions that need more
    context."""
    questions_per_passage: Annotated[int, BeforeValidator(number), Field(ge=1, le=20)] = 3
    """questions: questions that are asked for about one passage. Raise it for few documents."""
    rewrite: bool = True
    """translate: outputs are written anew in the target language, as KoAlpaca did; false: they are translated, too. Set
    false to keep the outputs that the source has."""
    novelty: Share = 0.7
    """An instruction is rejected if its ROUGE-L with a kept one or a seed is above this; 0 = not compared. Lower it for
    more varied rows."""
    benchmarks: tuple[Benchmark, ...] = ()
    """Files of test questions; rows that hold one are rejected. Name every benchmark that you evaluate on."""
    rules: dict[str, Action] = {}
    """Actions of cleaning rules, as in `data.rules`. Set a rule off when it rejects what you want."""
    longest: Length = 8000
    """Most characters of a row's instruction, input or output. Raise it for long texts."""
    keep_scripts: bool = True
    """Rejects text in a script that its language does not use, such as Chinese characters in Korean; the teacher is
    asked again once. Set false for rows about other scripts."""
    seed: Seed = 42
    """Chooses the seed tasks of each prompt. Change it for other prompts, which are paid for anew."""
    teacher: Teacher = Teacher()
    evolve: Evolve = Evolve()
    judge: RowJudge = RowJudge()
    preview: Count = 0
    """Shows so many prompts with their replies and stops. Set 5 before a long run."""
    replay: bool = False
    """Builds the rows from the journal, without a request. Set it on the command line after a change of filters."""
