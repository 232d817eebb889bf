"""`make preview`: five encoded rows as a person reads them."""

from pipeline.command import main
from pipeline.stages import show_preview

if __name__ == "__main__":
    raise SystemExit(main(show_preview, "Prints five encoded rows, with what carries loss marked."))
