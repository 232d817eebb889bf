"""The knobs of `make compare` and `make judge`; part of the config, see `pipeline.config.schema`."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field

from pipeline.config.values import SECTION, Length, Positive, Rate, number, plain_url, variable_name


class Compare(BaseModel):
    model_config = SECTION

    questions: tuple[str, ...] = ("data/questions_ko.jsonl", "data/questions_en.jsonl")
    """Question sets for base and tuned model: files, globs, folders or hub ids, in any form that data may have; answers
    need not be in them."""
    limit: Positive | None = None
    """At most so many questions of each set, taken from its categories in turn."""
    max_new_tokens: Length = 256
    """Longest answer. Questions that leave less room than that in the model's context are skipped, and it is said."""


class Judge(BaseModel):
    model_config = SECTION

    model: str = ""
    """Name of the judge, as its server knows it. Empty: `make judge` says what to set."""
    base_url: Annotated[str, AfterValidator(plain_url)] = ""
    """Where it is served, such as http://localhost:8000/v1; empty = OpenAI's own address."""
    key: Annotated[str, AfterValidator(variable_name)] = ""
    """Name of the environment variable that holds the key, which itself stands nowhere. Empty: OPENAI_API_KEY at
    OpenAI's own address, none elsewhere."""
    limit: Positive | None = None
    """Judge at most so many questions, taken from the categories in turn."""
    temperature: Rate | None = 0.0
    """null: not sent, for models that refuse the field."""
    parallel: Annotated[int, BeforeValidator(number), Field(ge=1, le=256)] = 4
    """Requests under way at once."""
    retries: Annotated[int, BeforeValidator(number), Field(ge=0, le=100)] = 5
    """Tries more, with growing pauses, when the server is busy, out of reach or fails; then the command stops."""
    timeout: Annotated[int, BeforeValidator(number), Field(ge=1, le=86_400)] = 120
    """Seconds that one reply may take."""
