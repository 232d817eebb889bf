"""The commands that answer questions: chat, and ask, which sends each question to the adapter that it names."""

from __future__ import annotations

import sys

from pipeline.config.adapter_name import BASE
from pipeline.config.schema import Config
from pipeline.run.folder import Run
from pipeline.run.progress import say, working


def talk(config: Config, run: Run) -> None:
    """Chats with a stored adapter where the config names one; else with the run's export, making it first."""
    from pipeline.model.base import resolve
    from pipeline.stages import bring_up_to_date
    from pipeline.store.folder import Store

    if config.chat.adapter:
        Store.here().folder(config.chat.adapter)  # before anything is loaded
        with working("chat: loading torch and transformers"):
            from pipeline.serving.chat import chat_with_adapter

        chat_with_adapter(config, run, resolve(config.model), Store.here())
        return
    config = bring_up_to_date(config, run, "export")
    run.check("dataset", "export")  # of the former, examples that stand before a question
    with working("chat: loading torch and transformers"):
        from pipeline.serving.chat import chat

    chat(config, run)


def ask(config: Config, run: Run) -> None:
    """Answers the questions on standard input, each by the adapter that it names."""
    from pipeline.model.base import resolve
    from pipeline.serving.questions import read_questions
    from pipeline.store.folder import Store

    questions = read_questions(sys.stdin)
    store = Store.here()
    for name in {q.adapter for q in questions} - {BASE}:
        store.record(name)  # before torch is imported
    with working("ask: loading torch and transformers"):
        from pipeline.model.run_base import RunBase
        from pipeline.serving.mixed import MixedModel

    with working("ask: loading the base and its adapters"):
        mixed = MixedModel(RunBase.of(config, resolve(config.model)), store, [q.adapter for q in questions])
    for q, reply in zip(questions, mixed.answer(questions, config.chat.max_new_tokens), strict=True):
        end = "" if reply.stopped else f" [cut off after {config.chat.max_new_tokens} tokens]"
        say(f"{q.adapter}> {q.instruction}{' | ' + q.input if q.input else ''}\n{reply.text.strip()}{end}\n")
