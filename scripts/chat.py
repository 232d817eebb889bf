"""`make chat`: talk to the exported checkpoint, or to a stored adapter on its base."""

from pipeline.command import main
from pipeline.config.schema import Config
from pipeline.model.base import resolve
from pipeline.run.folder import Run
from pipeline.run.progress import working
from pipeline.stages import bring_up_to_date
from pipeline.store.folder import Store


def talk(config: Config, run: Run) -> None:
    """Chats with a stored adapter where the config names one; else with the run's export, making it first."""
    if config.chat.adapter:
        Store.here().folder(config.chat.adapter)  # before anything is loaded
        with working("chat: loading torch and transformers"):
            from pipeline.serving.chat import chat_with_adapter

        chat_with_adapter(config, resolve(config.model), Store.here())
        return
    bring_up_to_date(config, run, "export")
    run.check("dataset", "export")  # of the former, examples that stand before a question
    with working("chat: loading torch and transformers"):
        from pipeline.serving.chat import chat

    chat(config, run)


if __name__ == "__main__":
    raise SystemExit(main(talk, "Talks to the exported checkpoint of a config."))
