"""What can be wrong before the first request: all of it in one message.

Problems between keys, such as a teacher without a name, are told with the config's own (`config/contradictions.py`),
and missing files as well (`config_files.py`); here is what depends on this machine and on the command.
"""

from __future__ import annotations

import os
from importlib.util import find_spec

from pipeline.api.key import key_of
from pipeline.config.synthesis import Asked, Synthesis
from pipeline.demo.base_model import fetch_if_named
from pipeline.run.errors import UserError
from pipeline.synthesis import local_teacher
from pipeline.synthesis.request import Role
from pipeline.synthesis.teachers import asked_of

PACKAGE = "openai"
INSTALL = "`make .venv/.judge`, or: pip install openai"


def check_method(settings: Synthesis) -> None:
    """Raises:
    UserError: no method is named, so nothing can be generated.
    """
    if settings.method == "none":
        fix = "self-instruct, translate or questions (docs/synthesis.md)"
        raise UserError("no method is named", "synthesis.method", fix)


def check_teachers(settings: Synthesis) -> None:
    """Checks that the models which the config names can be asked; fetches the demo's base where it is one of them.

    Raises:
        UserError: a package or a key is missing; all that is missing is in one message.
    """
    errors: list[UserError] = []
    asked: dict[str, Asked] = {"teacher": settings.teacher}
    if settings.judge.bar and settings.judge.model:
        asked["judge"] = settings.judge
    if any(model.kind != "local" for model in asked.values()) and find_spec(PACKAGE) is None:
        errors.append(UserError(f"the package {PACKAGE} is not installed", "extra judge", INSTALL))
    for role, model in asked.items():
        try:
            _check_one(model, f"synthesis.{role}")
        except UserError as error:
            errors.append(error)
    if len(errors) == 1:
        raise errors[0]
    if errors:
        lines = "\n".join(f"  - {error.where}: {error.what}; {error.fix}" for error in errors)
        raise UserError(f"{len(errors)} problems before the first request:\n{lines}")


def _check_one(model: Asked, where: str) -> None:
    """Raises:
    UserError: its key is missing, or a local model cannot be loaded.
    """
    if model.kind == "local":
        fetch_if_named(model.model)
        local_teacher.check(model, where)
    else:
        key_of(model, where)


def place_of(asked: Asked) -> str:
    """Where a model is asked, without a key or a folder of this machine: a host, or `this machine`."""
    if asked.kind == "local":
        return "this machine"
    return asked.base_url.partition("://")[2].partition("/")[0] or "api.openai.com"


def places_of(settings: Synthesis) -> dict[Role, str]:
    """Where each role's model is asked."""
    return {"teacher": place_of(settings.teacher), "judge": place_of(asked_of(settings, "judge"))}


def named(asked: Asked) -> str:
    """The model's name as reports show it: of a local one the last part of its path."""
    return os.path.basename(asked.model.rstrip("/")) if os.path.isabs(asked.model) else asked.model
