"""The judge stage: `compare/answers.jsonl` in, `judge/` out.

    verdicts.jsonl   a line per question: both replies and the winner
    judge.json       win rate with its interval, by category; how often both orders agree; the prompt
    judge.md         the same as a table

Replies are cached in `partial/verdicts.jsonl` as they arrive, so that after a failure only the rest is asked for.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

from pipeline.api.endpoint import Endpoint
from pipeline.comparison.answer_pairs import AnswerPair, load_pairs
from pipeline.comparison.judgement import judgement, markdown, outcome, printed
from pipeline.comparison.questions import in_turn
from pipeline.comparison.verdict import PROMPT_HASH, messages, name_of
from pipeline.config.portable_paths import shortener
from pipeline.config.schema import Config, Judge
from pipeline.run.errors import UserError
from pipeline.run.files import write_json, write_json_lines, write_text
from pipeline.run.folder import Run
from pipeline.run.progress import bar, say
from pipeline.run.result_cache import ResultCache

ORDERS = ("base", "tuned")  # whose answer stands first


def key(config: Config, run: Run) -> dict[str, Any]:
    """All that the result depends on; not judge.parallel, retries and timeout."""
    return {"version": 1, **_judge_key(config.judge), "limit": config.judge.limit, "compare": run.result("compare")}


def _judge_key(judge: Judge) -> dict[str, Any]:
    return {
        "model": judge.model, "base_url": judge.base_url, "temperature": judge.temperature, "prompt": PROMPT_HASH,
    }  # fmt: skip


def build(config: Config, run: Run, stage_key: dict[str, Any]) -> None:
    """Asks the judge for the verdicts that are missing, and writes the totals.

    Raises:
        UserError: the judge fails (its replies so far are kept), or no reply holds a verdict.
    """
    pairs = load_pairs(run.folder("compare"))
    ids = {q.id for q in in_turn([p.question for p in pairs], config.judge.limit)}
    pairs = [p for p in pairs if p.question.id in ids]
    replies = ResultCache(run.root / "partial" / "verdicts.jsonl", _judge_key(config.judge))
    _ask(config.judge, pairs, replies)
    outcomes = [outcome(pair, {first: replies.results.get(name_of(pair, first)) for first in ORDERS}) for pair in pairs]
    totals = judgement(config.judge, outcomes)
    if totals["win_rate"]["questions"] == 0:
        fix = "take another judge.model, one that keeps to a form; its replies are in that file"
        raise UserError("no reply of the judge holds a verdict", str(replies.path), fix)
    with run.writing("judge", stage_key) as output:
        write_json_lines(output.folder / "verdicts.jsonl", outcomes)
        write_json(output.folder / "judge.json", totals)
        write_text(output.folder / "judge.md", shortener(run.root, config)(markdown(config.name, totals)))
        output.counts.update({k: totals[k] for k in ("win_rate", "consistency", "unparsable", "identical")})
    say(printed(totals))
    say(f"judge: {run.folder('judge') / 'judge.md'}")


def _ask(judge: Judge, pairs: Sequence[AnswerPair], replies: ResultCache) -> None:
    """Asks for each pair and order without a cached reply; pairs with identical answers need none."""
    requests = {name_of(p, first): (p, first) for p in pairs if not p.identical for first in ORDERS}
    missing = {name: asked for name, asked in requests.items() if name not in replies.results}
    if not missing:
        return
    if len(missing) < len(requests):
        say(f"judge: {len(requests) - len(missing)} of {len(requests)} replies are kept from before")
    failed = _ask_all(judge, missing, replies)
    if failed:
        cached = sum(name in replies.results for name in requests)
        what = f"{failed.what}; {cached} of {len(requests)} replies are kept, and the same command goes on from there"
        raise UserError(what, failed.where, failed.fix)


def _ask_all(judge: Judge, missing: Mapping[str, tuple[AnswerPair, str]], replies: ResultCache) -> UserError | None:
    """Sends several requests at once; after a failure no other is sent. Returns the first failure."""
    endpoint, stop = Endpoint(judge), threading.Event()

    def ask(pair: AnswerPair, first: str) -> tuple[str, dict[str, int]] | None:
        if stop.is_set():
            return None
        try:
            return endpoint.reply(messages(pair, first))
        except BaseException:
            stop.set()
            raise

    failed: UserError | None = None
    pool = ThreadPoolExecutor(judge.parallel, thread_name_prefix="judge")
    try:
        names = {pool.submit(ask, *pair): name for name, pair in missing.items()}
        with bar(total=len(names), what="judge", unit="reply") as progress:
            for future in as_completed(names):
                try:
                    reply = future.result()
                except UserError as error:
                    failed = failed or error  # requests in flight are waited for
                    continue
                if reply:
                    text, usage = reply
                    replies.add({names[future]: {"reply": text, **usage}})
                    progress.update()
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)
        endpoint.close()
    return failed
