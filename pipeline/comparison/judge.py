"""The judge stage: `compare/answers.jsonl` in, `judge/` out.

    verdicts.jsonl   a question a line: both replies, and what they say together
    judge.json       win rate with its interval, by category; how steady the judge was; its prompt
    judge.md         the same to read

Replies are kept in `partial/verdicts.jsonl` as they come, so that a judge that fails is asked only for the rest.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

from pipeline.comparison.endpoint import Endpoint
from pipeline.comparison.judgement import judgement, markdown, outcome, printed
from pipeline.comparison.pair import Pair, load
from pipeline.comparison.questions import in_turn
from pipeline.comparison.verdict import PROMPT_HASH, messages, name_of
from pipeline.config.portable_paths import shortener
from pipeline.config.schema import Config
from pipeline.run.errors import UserError
from pipeline.run.files import json_text, write_json, write_text
from pipeline.run.folder import Run
from pipeline.run.progress import bar, say
from pipeline.run.result_cache import ResultCache

ORDERS = ("base", "tuned")  # whose answer stands first


def key(config: Config, run: Run) -> dict[str, Any]:
    """All that the result depends on; not how fast and how patiently it is asked for."""
    return {"version": 1, **_judge_key(config), "limit": config.judge.limit, "compare": run.result("compare")}


def _judge_key(config: Config) -> dict[str, Any]:
    judge = config.judge
    return {
        "model": judge.model, "base_url": judge.base_url, "temperature": judge.temperature, "prompt": PROMPT_HASH,
    }  # fmt: skip


def build(config: Config, run: Run, stage_key: dict[str, Any]) -> None:
    """Asks the judge for what it has not said yet, and adds up.

    Raises:
        UserError: the judge fails (its replies so far are kept), or says nothing that can be read.
    """
    pairs = load(run)
    chosen = {q.id for q in in_turn([p.question for p in pairs], config.judge.limit)}
    pairs = [p for p in pairs if p.question.id in chosen]
    replies = ResultCache(run.root / "partial" / "verdicts.jsonl", _judge_key(config))
    _ask(config, pairs, replies)
    outcomes = [outcome(pair, {first: replies.results.get(name_of(pair, first)) for first in ORDERS}) for pair in pairs]
    found = judgement(config, outcomes)
    if found["win_rate"]["questions"] == 0:
        fix = "take another judge.model, one that keeps to a form; its replies are in that file"
        raise UserError("no reply of the judge holds a verdict", str(replies.path), fix)
    with run.writing("judge", stage_key) as output:
        write_text(output.folder / "verdicts.jsonl", "".join(json_text(o) + "\n" for o in outcomes))
        write_json(output.folder / "judge.json", found)
        write_text(output.folder / "judge.md", shortener(run.root, config)(markdown(config, found)))
        output.counts.update({k: found[k] for k in ("win_rate", "consistency", "unparsable", "identical")})
    say(printed(found))
    say(f"judge: {run.folder('judge') / 'judge.md'}")


def _ask(config: Config, pairs: Sequence[Pair], replies: ResultCache) -> None:
    """Keeps a reply for each pair and order that has none; pairs with equal answers need none."""
    wanted = {name_of(p, first): (p, first) for p in pairs if not p.identical for first in ORDERS}
    missing = {name: asked for name, asked in wanted.items() if name not in replies.results}
    if not missing:
        return
    if len(missing) < len(wanted):
        say(f"judge: {len(wanted) - len(missing)} of {len(wanted)} replies are there already")
    failed = _ask_all(config, missing, replies)
    if failed:
        there = sum(name in replies.results for name in wanted)
        what = f"{failed.what}; {there} of {len(wanted)} replies are kept, and the same command goes on from there"
        raise UserError(what, failed.where, failed.fix)


def _ask_all(config: Config, missing: Mapping[str, tuple[Pair, str]], replies: ResultCache) -> UserError | None:
    """Several requests at once; after the first that fails no other is begun. Returns that failure."""
    endpoint, stop = Endpoint(config.judge), threading.Event()

    def ask(pair: Pair, first: str) -> tuple[str, dict[str, int]] | None:
        if stop.is_set():
            return None
        try:
            return endpoint.reply(messages(pair, first))
        except BaseException:
            stop.set()
            raise

    failed: UserError | None = None
    pool = ThreadPoolExecutor(config.judge.parallel, thread_name_prefix="judge")
    try:
        asked = {pool.submit(ask, *pair): name for name, pair in missing.items()}
        with bar(total=len(asked), what="judge", unit="reply") as progress:
            for future in as_completed(asked):
                try:
                    reply = future.result()
                except UserError as error:
                    failed = failed or error  # what is under way is waited for
                    continue
                if reply:
                    text, usage = reply
                    replies.add({asked[future]: {"reply": text, **usage}})
                    progress.update()
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)
        endpoint.close()
    return failed
