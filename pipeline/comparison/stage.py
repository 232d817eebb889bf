"""The compare stage: question sets in, `compare/` out.

    page.html              one question at a time, to vote on
    answers.jsonl          a line per question, with both answers
    alpaca_eval/*.json     the same in AlpacaEval's form

Answers are cached in `measurements/` one by one (`pipeline.evaluation.results`), so that a stopped command continues,
and one with more questions generates only the new answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipeline.comparison.answer_pairs import AnswerPair, alpaca_eval_rows, digest_of
from pipeline.comparison.page import page
from pipeline.comparison.questions import files, read_all
from pipeline.config.method_rules import description, spec_of
from pipeline.config.portable_paths import shortener
from pipeline.config.schema import Config
from pipeline.pages.phrases import Phrase, labelled, phrase
from pipeline.run.files import write_json, write_json_lines, write_text
from pipeline.run.folder import Run, input_hashes
from pipeline.run.progress import say, working


def key(config: Config, run: Run) -> dict[str, Any]:
    """All that the result depends on.

    Raises:
        UserError: a question set is missing.
    """
    return {
        "version": 2,  # 1: in English alone, and a vote saw which answer did not stop
        "name": config.name,
        "compare": config.value("compare"),
        **({"conversations": "whole"} if config.prompt.is_chat else {}),  # keys of the first versions lack it
        "inputs": input_hashes(files(config.compare.questions)),
        "export": run.result("export"),
    }


def build(config: Config, run: Run, stage_key: dict[str, Any]) -> None:
    """Generates both models' answers, and writes the page and the files.

    Raises:
        UserError: a set cannot be read, no question fits, a model cannot be loaded, or its logits are not finite.
    """
    questions, repeated = read_all(config.compare.questions, config.compare.limit, config.prompt.is_chat)
    if repeated:
        say(f"compare: {repeated} questions occur twice and are asked once")
    with working("compare: loading torch and transformers"):
        from pipeline.comparison.answering import answer_questions

    pairs, skipped = answer_questions(config, run, questions)
    if skipped:
        say(f"compare: {len(skipped)} questions are too long for the model and are left out; the page lists them")
    digest = digest_of(pairs)
    with run.writing("compare", stage_key) as output:
        (output.folder / "alpaca_eval").mkdir()
        for who in ("base", "tuned"):
            rows = alpaca_eval_rows(pairs, who, f"{config.name}-{who}")
            write_json(output.folder / "alpaca_eval" / f"{who}.json", rows)
        write_json_lines(output.folder / "answers.jsonl", (pair.as_dict() for pair in pairs))
        html = page(config.name, about(config, len(pairs)), pairs, skipped, digest, config.compare.max_new_tokens)
        write_text(output.folder / "page.html", shortener(run.root, config)(html))
        output.counts.update(
            questions=len(pairs),
            twice=repeated,
            too_long=[{"id": q.id, "set": q.set, "tokens": n} for q, n in skipped],
            identical=sum(pair.identical for pair in pairs),
            stopped={"base": sum(p.base.stopped for p in pairs), "tuned": sum(p.tuned.stopped for p in pairs)},
            digest=digest,
        )
    _print_counts(run, pairs)


def about(config: Config, questions: int) -> Phrase:
    """What the page compares, in a few sentences."""
    from pipeline.model.card import base_name
    from pipeline.release.card import column_names

    method, names = spec_of(config.adapter), column_names(config.adapter)
    values = {
        "questions": questions,
        "first": labelled(names[0]),
        "base": base_name(config.model) or "random weights",
        "second": labelled(names[1]),
        "tuned": phrase("compare-same" if method.export == "nothing" else "compare-export"),
        "how": description(config.adapter),
        "template": config.prompt.template,
        "most": config.compare.max_new_tokens,
    }
    return phrase("compare-about", **values)


def _print_counts(run: Run, pairs: Sequence[AnswerPair]) -> None:
    base, tuned = sum(p.base.stopped for p in pairs), sum(p.tuned.stopped for p in pairs)
    identical = sum(p.identical for p in pairs)
    stopped = f"answers that end by themselves: base {base}, tuned {tuned}"
    say(f"compare: {len(pairs)} questions; {stopped}; {identical} equal answers")
    say(f"compare: open this page in a browser and vote: {run.folder('compare') / 'page.html'}")
