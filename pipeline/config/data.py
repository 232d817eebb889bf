"""The section `data` of a config: where rows come from, which are kept, and which are held out."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field

from pipeline.config.values import MOST, Action, Positive, Repeats, Section, Seed, Share, count_or_share, number


class Source(Section):
    """One source of rows."""

    needs: ClassVar[tuple[str, ...]] = ("instruction", "output")
    """Fields without which a row is rejected. Not a key: questions (`pipeline.comparison`) need no output."""
    path: Annotated[str, Field(min_length=1)]
    """A file, a glob such as data/*.jsonl.gz, s3://bucket/part-*.jsonl, a folder or hub id that `datasets` loads, or
    `families` (the generated tasks of the demo). Set it for every source."""
    columns: dict[Literal["instruction", "input", "output", "task"], str] = {}
    """The source's names of the fields, such as {instruction: Q, output: A}. Set it when the columns of a CSV file or
    the fields of a JSON file have other names."""
    subset: str = ""
    """Hub data sets: the subset to read. Set it when the data set has several."""
    revision: str = ""
    """Hub data sets: a branch, tag or commit; empty = the newest. Set a commit so that a run can be repeated."""
    split: Annotated[str, Field(min_length=1)] = "train"
    """Hub data sets and folders: the split to read. Change it when the rows are in another one."""
    language: Literal["", "en", "ko"] = ""
    """The language of this source; the rule `wrong-language` finds rows in another one. Set it for sources in one
    language."""
    task: str = ""
    """Task of the rows that name none themselves. Set it to hold out or limit the rows of this source as one task."""
    limit: Positive | None = None
    """Largest number of rows that are taken, chosen by content hash after cleaning; null = all. Set it for a small
    trial, or to bound one large source."""
    weight: Annotated[float, BeforeValidator(number), Field(ge=1e-9, le=MOST)] | None = None
    """Share of the training rows relative to the other weighted sources; the source with the fewest rows for its
    weight is used in full. Set it to mix sources of different sizes."""
    repeat: Repeats = 1
    """How often each training row is written to train.jsonl. Raise it when a small source should be seen more often
    than the others."""
    licence: Annotated[str, Field(max_length=200)] = ""
    """Licence of this source for the model card: an identifier of the hub such as cc-by-4.0, or its name; empty = what
    Suri knows of it (docs/licences.md). Set it for sources that are not in that table."""
    rehearsal: bool = False
    """Marks general data against forgetting, which makes up the share `data.rehearsal` of the training rows. Set it
    for a source like the data that the base was tuned on."""
    rows: Positive | None = None
    """families: how many rows are generated; other sources: how many rows there should be. Set it for families, and so
    that `plan` works before the data is downloaded."""
    exact: bool = False
    """Says that every output is the only correct answer, so that exact match is counted on these rows. Set it for
    arithmetic, extraction and similar tasks."""


class Duplicates(Section):
    """Which rows count as duplicates of an earlier one."""

    exact: bool = True
    """Rejects rows equal to an earlier one except for letter case, Unicode form and white space. Set false when rows
    are repeated on purpose."""
    near: Share = 0.8
    """Rejects rows whose shingles overlap at least this much (Jaccard) with an earlier row that is kept; 0 = off.
    Lower it when the data report still shows rows that say the same."""
    shingle: Annotated[int, BeforeValidator(number), Field(ge=1, le=20)] = 3
    """Words in a shingle (letters in Korean, at least 3). Set 1 to compare sets of words, which also finds rows with
    the words in another order, but rejects more rows that only share a form."""
    novelty: Share = 0.0
    """Rejects rows whose instruction has a ROUGE-L F above this with one that is kept; 0 = off. Set 0.7 to filter
    generated instructions as Stanford did."""


class Benchmark(Section):
    """One file of test questions that must not be trained on."""

    path: Annotated[str, Field(min_length=1)]
    """A file or glob with questions: ARC, HellaSwag, MMLU, TruthfulQA, KoBEST, or your own list. Set it for every test
    set on which the tuned model will be measured."""
    name: str = ""
    """Its name in reports; empty = the file's name. Set it when files have the same name."""
    field: str = ""
    """The field that holds the question; empty = recognised. Set it when the file's form is not recognised."""


class Data(Section):
    """Where rows come from, which are kept, and which are held out."""

    sources: tuple[Source, ...] = ()
    """Where rows come from, in this order; of two equal rows the first is kept. Set it in every config."""
    clean: Literal["standard", "none"] = "standard"
    """standard: every cleaning rule has its own default (docs/data.md); none: texts stay as they are. Set none to
    reproduce recipes of 2023."""
    rules: dict[str, Action] = {}
    """Single rules on top of `clean`, such as {refusal: on, cut-off: off}: on fixes or rejects, warn only counts.
    Change one when the data report shows that it is wrong about your data."""
    duplicates: Duplicates = Duplicates()
    """Which rows count as duplicates. Change its keys when the data report shows too many or too few of them."""
    benchmarks: tuple[Benchmark, ...] = ()
    """Test questions that must not be trained on; rows that contain one are rejected. Name every test set that you will
    report."""
    val: Annotated[int | float, BeforeValidator(count_or_share), Field(ge=0, le=MOST)] = 0
    """Rows kept out of training and measured on, chosen by content hash; below 1: a share, and then no row changes its
    split when the data grows; 1 and above: exactly so many. Set it whenever results are to be measured."""
    val_exact_only: bool = False
    """Takes the held-out rows only from sources marked `exact`. Set it when exact match is the number that counts."""
    groups: dict[str, tuple[str, ...]] = {}
    """Groups of tasks, such as {maths: [add, "percent-*"]}. Set it to hold out or report tasks together."""
    holdout: tuple[str, ...] = ()
    """Tasks, or groups of them, that are never trained on and are measured separately. Set it to measure transfer to
    unseen tasks."""
    task_limit: Positive | None = None
    """Largest number of training rows of one task, chosen by content hash (FLAN: 3,000); null = no limit. Set it
    when a few large tasks would make up most of the data."""
    rehearsal: Annotated[float, BeforeValidator(number), Field(ge=0, lt=1)] = 0.0
    """Share of the training rows that comes from sources marked `rehearsal`. Raise it when the model forgets
    (docs/forgetting.md)."""
    engine: Literal["local", "ray"] = "local"
    """local: one process per core; ray: a Ray cluster (extra `ray`), with the same result. Set ray when one machine is
    too slow."""
    seed: Seed = 42
    """Chooses the held-out rows, and the rows that a limit keeps. Change it to see how much a result depends on that
    choice."""
