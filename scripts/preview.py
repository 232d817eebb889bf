"""`make preview`: five encoded rows as a person reads them."""

from pipeline.command import main
from pipeline.config.schema import Config
from pipeline.dataset.examples import read_examples
from pipeline.model.base import resolve
from pipeline.prompt.stage import encoder_of
from pipeline.run.folder import Run
from pipeline.stages import bring_up_to_date


def show_preview(config: Config, run: Run) -> None:
    """Prints five encoded rows and how many rows change prompt tokens when the answer is joined."""
    from pipeline.prompt.preview import preview

    bring_up_to_date(config, run, "tokens")
    run.check("dataset")
    encoder = encoder_of(config.prompt, resolve(config.model).tokenizer, config.model.add_tokens)
    preview(encoder, list(read_examples(run.folder("dataset"), "train")))


if __name__ == "__main__":
    raise SystemExit(main(show_preview, "Prints five encoded rows, with what carries loss marked."))
