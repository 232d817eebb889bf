"""The key comes from the environment and goes into no message."""

from __future__ import annotations

import pytest

from pipeline.api.key import NO_KEY, clean, key_of, without_key
from pipeline.config.schema import Judge
from pipeline.config.synthesis import Teacher
from pipeline.run.errors import UserError


def test_which_key_goes_where(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", " sk-1\n")
    monkeypatch.setenv("MINE", "sk-2")
    assert key_of(Judge(model="m")) == "sk-1"
    assert key_of(Teacher(model="m", base_url="http://localhost/v1")) == NO_KEY
    assert key_of(Teacher(model="m", base_url="http://localhost/v1", key="MINE")) == "sk-2"


@pytest.mark.parametrize("section", ["judge", "synthesis.teacher"])
def test_a_missing_key_names_the_section(section: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(UserError, match="OPENAI_API_KEY holds no key") as error:
        key_of(Judge(model="m"), section)
    assert error.value.where == f"{section}.key"


def test_texts_without_the_key() -> None:
    assert without_key("a sk-2 b sk-2", "sk-2") == "a [key] b [key]"
    assert without_key("none of it", NO_KEY) == "none of it"
    assert clean("two\n lines  of sk-2 " + "x" * 500, "sk-2") == ("two lines of [key] " + "x" * 500)[:200]
