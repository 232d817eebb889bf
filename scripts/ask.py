"""`make ask`: questions to several adapters of the store, answered in one batch. One question a line on standard input:

maths: What is 17 + 25?
base: What is 17 + 25?
{"adapter": "korean", "instruction": "Translate.", "input": "Good morning."}
"""

import sys

from pipeline.command import main
from pipeline.config.adapter_name import BASE
from pipeline.config.schema import Config
from pipeline.model.base import resolve
from pipeline.run.folder import Run
from pipeline.run.progress import say, working
from pipeline.serving.questions import read_questions
from pipeline.store.folder import Store


def ask(config: Config, run: Run) -> None:
    """Answers the questions on standard input, each by the adapter that it names."""
    questions = read_questions(sys.stdin)
    store = Store.here()
    for name in {q.adapter for q in questions} - {BASE}:
        store.record(name)  # before torch is imported
    with working("ask: loading torch and transformers"):
        from pipeline.serving.mixed import MixedModel

    with working("ask: loading the base and its adapters"):
        mixed = MixedModel(config, resolve(config.model), store, [q.adapter for q in questions])
    for q, reply in zip(questions, mixed.answer(questions, config.chat.max_new_tokens), strict=True):
        end = "" if reply.stopped else f" [cut off after {config.chat.max_new_tokens} tokens]"
        say(f"{q.adapter}> {q.instruction}{' | ' + q.input if q.input else ''}\n{reply.text.strip()}{end}\n")


if __name__ == "__main__":
    raise SystemExit(main(ask, "Answers questions to several stored adapters in one batch.", files=False))
