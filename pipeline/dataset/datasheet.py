"""The datasheet of the data: what it is, how it was made, and its known limits, as Markdown.

Headings after Gebru et al. 2021 (Datasheets for Datasets), as far as a program can answer them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pipeline import __version__
from pipeline.config.schema import Data
from pipeline.dataset.generated import lines as lines_of_generated
from pipeline.dataset.licences import BY_KEY, known_data
from pipeline.dataset.summary import label_of
from pipeline.run.markdown import code, plain

WHOLE = (
    " Conversations are whole: `turns` has all messages in OpenAI's form (`weight: 0` = carries no loss), `system` the "
    "system message, `tools` the functions that the turns may call. `instruction` and `output` are then the first "
    "question and the last answer, and `id` is a hash of all turns."
)
# Names of the most frequent codes of pipeline/dataset/language.py; others are shown as codes.
LANGUAGES = {
    "en": "English", "ko": "Korean", "ja": "Japanese", "zh": "Chinese", "fr": "French", "de": "German",
    "es": "Spanish", "it": "Italian", "pt": "Portuguese", "zxx": "no words",
}  # fmt: skip


def datasheet(
    report: Mapping[str, Any], name: str, data: Data, generated: Mapping[str, Mapping[str, Any]] | None = None
) -> str:
    """Markdown for `dataset/README.md`. Deterministic: no time, no machine.

    Args:
        name: of the run. data: its settings. generated: reports of the sources that a teacher made, by path.
    """
    blocks = [
        f"# Datasheet: {name}",
        _what(report),
        "## Sources and their licences",
        _sources(report, generated or {}, data),
        *_generated(generated or {}),
        "Suri does not read licences: look up those that are not named above before you pass the data on.",
        "## How it was made",
        *_making(report, data),
        "## What is in it",
        *_contents(report),
        "## Known limits",
        *_limits(report, data),
        "## To build it again",
        _again(name, data.seed),
    ]
    return "\n\n".join(block for block in blocks if block) + "\n"


def _what(report: Mapping[str, Any]) -> str:
    splits = [
        f"{_n(report, 'train')} to train on", f"{_n(report, 'val')} held out for the loss",
        f"{_n(report, 'holdout')} of tasks that are never trained on",
    ]  # fmt: skip
    left_out = f" + {_n(report, 'left_out')} left out by limits or the mixture" if report.get("left_out") else ""
    rejected = int(report.get("rejected") or 0) - int(report.get("left_out") or 0)
    return (
        f"Instruction data in Alpaca form: {_n(report, 'kept')} rows, {', '.join(splits)}. "
        f"{_n(report, 'read')} rows were read = {_n(report, 'kept')} kept + {rejected:,} rejected"
        f"{left_out}. {_n(report, 'with_input')} rows carry an input.\n\n"
        "**Form.** One JSON object a line: `instruction`, `input` (may be empty), `output`, and `id` (hash of the "
        "three), `source`, `language`, `task`, `exact` (the output is the only right answer), `thread` (the "
        "conversation that a row was cut from)." + (WHOLE if report.get("conversations") else "")
    )


def _sources(report: Mapping[str, Any], generated: Mapping[str, Any], data: Data) -> str:
    rows, stated = [], {source.path: source.licence for source in data.sources}
    for source in report.get("sources", ()):
        forms = ", ".join(source.get("forms") or ()) or "-"
        path = str(source.get("path", ""))
        licence = "see below: written by a model" if path in generated else _licence(path, stated.get(path, ""))
        left_out = source.get("left_out", 0)
        counts = (source.get("read", 0), source.get("kept", 0), source.get("rejected", 0) - left_out, left_out)
        rows.append((code(label_of(source)), plain(forms), *(f"{n:,}" for n in counts), licence))
    head = ("source", "form", "read", "kept", "rejected", "left out", "licence")
    notes = [
        f"- {code(label_of(source))}: {plain(note)} ({count:,} rows)"
        for source in report.get("sources", ())
        for note, count in (source.get("notes") or {}).items()
    ]
    return "\n\n".join(filter(None, (_table(head, rows, numbers=(2, 3, 4, 5)), "\n".join(notes))))


def _generated(generated: Mapping[str, Mapping[str, Any]]) -> Iterable[str]:
    """Of each source that a teacher made: who, of what, when, under which terms."""
    for path, report in generated.items():
        yield f"### Generated: {code(path)}\n\n" + "\n".join(lines_of_generated(report))


def _licence(path: str, stated: str) -> str:
    """The licence of a source. stated: by the config; empty = not."""
    if stated:
        return plain(stated)
    known = known_data(path)
    if known is None or not (known.licence or known.note):
        return "**look it up and write it here**"
    licence = BY_KEY.get(known.licence)
    what = "".join([licence.name, "" if licence.commercial else ": not for commercial use"]) if licence else "not known"
    return f"{what}; {known.note}" if known.note else what


def _making(report: Mapping[str, Any], data: Data) -> Iterable[str]:
    yield (
        f"Cleaning was `{data.clean}`"
        + (f", with {', '.join(code(f'{k}: {v}') for k, v in sorted(data.rules.items()))}" if data.rules else "")
        + ". `rejected.jsonl` has every rejected row with its reason, `changes.jsonl` every changed or flagged one, "
        "before and after."
    )
    rules = [
        (
            code(rule["rule"]),
            *(f"{rule.get(k, 0):,}" for k in ("rejected", "fixed", "flagged")),
            plain(rule.get("what", "")),
        )
        for rule in report.get("rules", ())
        if any(rule.get(k) for k in ("rejected", "fixed", "flagged"))
    ]
    yield (
        _table(("rule", "rejected", "fixed", "flagged", "what"), rules, numbers=(1, 2, 3)) or "No rule found anything."
    )
    yield _duplicates(report, data)
    yield _benchmarks(report)
    yield _split(data)
    yield _mixture(report)


def _duplicates(report: Mapping[str, Any], data: Data) -> str:
    counts, settings = report.get("duplicates") or {}, data.duplicates
    kinds = []
    if settings.exact:
        kinds.append(f"equal but for letter case, Unicode form and white space: {counts.get('exact', 0):,}")
    if settings.near:
        kinds.append(f"sharing {settings.near:.0%} or more of their shingles (Jaccard): {counts.get('near', 0):,}")
    if settings.novelty:
        kinds.append(
            f"instruction with a ROUGE-L F above {settings.novelty:g} against a kept one: {counts.get('novelty', 0):,}"
        )
    if not kinds:
        return "**Duplicates.** Not looked for."
    return f"**Duplicates** rejected, the first of each group kept: {'; '.join(kinds)}. The groups: `duplicates.jsonl`."


def _benchmarks(report: Mapping[str, Any]) -> str:
    contamination = report.get("contamination") or {}
    names = [str(b.get("name", "")) for b in contamination.get("benchmarks", ())]
    if not names:
        return "**Benchmarks.** None was named, so no row was compared with test questions."
    hits = contamination.get("table") or {}
    rows = [
        (
            plain(b["name"]),
            f"{b.get('questions', 0):,}",
            f"{_checkable(b):,}",
            f"{sum((hits.get(b['name']) or {}).values()):,}",
        )
        for b in contamination["benchmarks"]
    ]
    table = _table(("benchmark", "questions", "long enough to look for", "rows that held one"), rows, numbers=(1, 2, 3))
    text = "**Benchmarks.** Rows that hold a test question were rejected; `contaminated.jsonl` shows both texts."
    return f"{text}\n\n{table}"


def _checkable(benchmark: Mapping[str, Any]) -> int:
    return int(benchmark.get("checkable", benchmark.get("questions", 0)))


def _split(data: Data) -> str:
    size = f"a share of {data.val:g}" if 0 < data.val < 1 else f"{int(data.val):,} rows"
    text = (
        f"**Split.** By content hash with seed {data.seed}; val is {size}."
        if data.val
        else "**Split.** No rows are held out."
    )
    if data.holdout:
        text += f" Tasks never trained on: {', '.join(code(t) for t in data.holdout)}."
    return text


def _mixture(report: Mapping[str, Any]) -> str:
    mix = [
        line
        for line in report.get("mix") or ()
        if line.get("repeat", 1) != 1 or line.get("taken") != line.get("available")
    ]
    if not mix:
        return ""
    rows = [
        (code(m["source"]), f"{m['available']:,}", f"{m['taken']:,}", f"{m['repeat']}", f"{m['share']:.1%}")
        for m in report["mix"]
    ]
    return "**Mixture** of the training rows.\n\n" + _table(
        ("source", "available", "taken", "times", "share"), rows, numbers=(1, 2, 3, 4)
    )


def _contents(report: Mapping[str, Any]) -> Iterable[str]:
    languages = report.get("languages") or {}
    yield "**Languages.** " + (_counts({LANGUAGES.get(k, k): v for k, v in languages.items()}) or "No row was kept.")
    if conversations := report.get("conversations"):
        yield _conversations(conversations)
    tasks = {k or "(none named)": v for k, v in (report.get("tasks") or {}).items()}
    if set(tasks) - {"(none named)"}:
        more = f", and {len(tasks) - 20:,} more" if len(tasks) > 20 else ""
        yield f"**Tasks.** {_counts(dict(list(tasks.items())[:20]))}{more}."
    if report.get("groups"):
        yield f"**Groups of tasks.** {_counts(report['groups'])}."
    yield "**Lengths.** In the run's `report/`, in tokens where a base model is named, otherwise in characters."


def _conversations(counts: Mapping[str, Any]) -> str:
    rows = [(name, f"{n:,}") for name, n in counts["by_turns"].items()]
    names = ("several", "rows", "turns", "answers", "learnt", "with_system", "with_tools")
    several, all_rows, turns, answers, learnt, system, tools = (f"{counts[name]:,}" for name in names)
    return (
        f"**Conversations.** {several} of {all_rows} rows have more than one question. Of {turns} turns {answers} are "
        f"answers, and {learnt} of these may carry loss ({counts['learnt'] / counts['turns']:.1%} of the turns; "
        f"`prompt.loss` can narrow it). {system} rows have a system message, {tools} have tools.\n\n"
        + _table(("turns in a row", "rows"), rows, numbers=(1,))
    )


def _limits(report: Mapping[str, Any], data: Data) -> Iterable[str]:
    personal: Mapping[str, Any] = next((r for r in report.get("rules", ()) if r.get("rule") == "personal-data"), {})
    clean = data.clean != "none"
    limits = [
        "Rules are heuristics: they reject some good rows and leave some bad ones. `report.json` has examples of each."
        if clean
        else "The texts were not cleaned (`data.clean: none`).",
        "No rule judges whether an answer is true, apart from simple arithmetic.",
        "Languages are detected by script and common words; for short texts the result may be wrong.",
        "Near duplicates share words or letters; two tasks with one meaning and different words both stay.",
    ]
    if personal.get("flagged"):
        limits.append(f"{personal['flagged']:,} rows are flagged for personal data (e-mail, phone, resident number).")
    elif clean and data.rules.get("personal-data") != "off":
        limits.append("Personal data was looked for as e-mail, phone and resident numbers only; names were not.")
    yield "\n".join(f"- {line}" for line in limits)


def _again(name: str, seed: int) -> str:
    return (
        f"Suri {__version__}, seed {seed}. All settings are in `../config.yaml`, the hashes of the "
        "sources in `manifest.json`. The same files and settings give the same bytes:\n\n"
        f"```\nmake data CONFIG=runs/{name}/config.yaml\n```"
    )


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{plain(name)} {count:,}" for name, count in counts.items())


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], numbers: Sequence[int]) -> str:
    if not rows:
        return ""
    lines = [head, ["--:" if i in numbers else "---" for i in range(len(head))], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _n(report: Mapping[str, Any], name: str) -> str:
    return f"{int(report.get(name) or 0):,}"
