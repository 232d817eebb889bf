"""What the tests of the server share."""

from __future__ import annotations

import pytest

from pipeline.prompt.any_encoder import AnyEncoder


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> AnyEncoder:
    """Of the tiny tokenizer and Alpaca's template without a preamble."""
    from pipeline.prompt.template import load
    from tests.helpers.tiny import make_tokenizer
    from tests.helpers.tokenizers import encoder_of

    folder = tmp_path_factory.mktemp("tokenizer")
    make_tokenizer(folder)
    return encoder_of(folder, load("alpaca-short"))
