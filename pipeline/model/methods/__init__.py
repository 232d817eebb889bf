"""The implementation of each method in `pipeline.config.methods`, by name."""

from __future__ import annotations

from pipeline.model.methods.bottleneck import HOULSBY, PFEIFFER
from pipeline.model.methods.full import FULL
from pipeline.model.methods.head import HEAD
from pipeline.model.methods.ia3 import IA3
from pipeline.model.methods.lora import LORA
from pipeline.model.methods.method import Method
from pipeline.model.methods.none import NONE
from pipeline.model.methods.norms import NORMS
from pipeline.model.methods.virtual import PREFIX, PROMPT, PTUNING

BY_NAME: dict[str, Method] = {
    method.name: method for method in (LORA, FULL, HEAD, NORMS, IA3, HOULSBY, PFEIFFER, PREFIX, PROMPT, PTUNING, NONE)
}
