"""Every way to adapt a model, one name each. One more takes a file here and one line in `METHODS`.

Reading this needs neither torch nor peft: the config is checked against it.
"""

from __future__ import annotations

import difflib

from pipeline.model.methods.bottleneck import HOULSBY, PFEIFFER
from pipeline.model.methods.full import FULL
from pipeline.model.methods.head import HEAD
from pipeline.model.methods.ia3 import IA3
from pipeline.model.methods.lora import LORA
from pipeline.model.methods.method import Method
from pipeline.model.methods.none import NONE
from pipeline.model.methods.norms import NORMS
from pipeline.model.methods.virtual import PREFIX, PROMPT, PTUNING

METHODS: tuple[Method, ...] = (
    LORA,
    FULL,
    HEAD,
    NORMS,
    IA3,
    HOULSBY,
    PFEIFFER,
    PREFIX,
    PROMPT,
    PTUNING,
    NONE,
)
BY_NAME = {method.name: method for method in METHODS}


def checked(name: object) -> str:
    """A name that is in the registry.

    Raises:
        ValueError: it is not; with the nearest one that is, and all of them.
    """
    if isinstance(name, str) and name in BY_NAME:
        return name
    near = difflib.get_close_matches(str(name).lower(), BY_NAME, 1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise ValueError(f"no such method; {hint}there is {', '.join(BY_NAME)}")
