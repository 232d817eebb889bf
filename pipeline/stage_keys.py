"""What the tokens, the adapter and the export of a run depend on; the keys of other stages are in their packages.

Keys of earlier versions of Suri stay valid: a setting that they lack is left out of a key while it has its default.
"""

from __future__ import annotations

from typing import Any

from pipeline.config.chat_forms import BASE
from pipeline.config.method_rules import spec_of
from pipeline.config.schema import Config
from pipeline.evaluation import known_questions
from pipeline.model.base import identity
from pipeline.prompt import general_text
from pipeline.prompt import stage as tokens
from pipeline.run.folder import Run

Key = dict[str, Any]  # all that a result depends on, as it stands in the stage's manifest

# Keys of `train` that change how a run is watched, not what comes out.
WATCHING = ("tracker", "save_every", "keep", "gpu_memory", "shard")
# Keys of `train` that earlier runs lack, with their defaults, which are left out of the stage's key.
SINCE_VERSION_2 = {"accumulation_4_28": 0, "optimizer": "adamw", "early_stop": 0, "best": False, "neftune": 0.0}
# Keys of `eval` that the export's own measurements depend on.
MEASURED = ("rows", "max_new_tokens", "general", "general_windows", "prompts", "known")


def tokens_key(config: Config, run: Run) -> Key:
    return tokens.key(config, run, identity.tokenizer_identity(config.model, config.prompt.template == BASE))


def train_key(config: Config, run: Run) -> Key:
    settings = {name: value for name, value in config.value("train").items() if name not in WATCHING}
    for name, default in SINCE_VERSION_2.items():
        if settings[name] == default:
            del settings[name]
    excludes_biases = settings["weight_decay"] and spec_of(config.adapter).not_decayed
    return {
        "version": 2,
        **({"not_decayed": "biases and norms"} if excludes_biases else {}),  # keys without it: they were decayed
        "model": identity.settings(config.model),
        "base": identity.identity(config.model),
        "adapter": config.value("adapter"),
        "train": settings,
        "tokens": run.result("tokens"),
        "ewc_data": general_text.file_hash(config.train.ewc_data, "train.ewc_data") if config.train.ewc_data else "",
    }


def export_key(config: Config, run: Run) -> Key:
    settings = config.value("export")
    if settings["formats"] == ["hf"]:  # keys of the first versions lack it
        del settings["formats"]
    if "gguf" not in config.export.formats:
        del settings["gguf"]
    if settings["merge_into"] == "dequantized" or config.model.quantize not in ("nf4", "int8"):
        del settings["merge_into"]
    return {
        "version": 1,
        "name": config.name,
        "export": settings,
        "eval": {name: config.value("eval")[name] for name in MEASURED},
        "general": general_text.file_hash(config.eval.general),
        "known": known_questions.file_hash(config.eval.known),
        "groups": config.value("data.groups"),
        **_stated_licences(config),
        "counts": (run.manifest("dataset") or {}).get("counts"),  # shown in the model card, and used by the probes
        "adapter": run.result("adapter"),
    }


def _stated_licences(config: Config) -> Key:
    """The licences that the config states, which the model card shows; nothing where it states none."""
    stated = {source.path: source.licence for source in config.data.sources if source.licence}
    return {"licences": stated} if stated else {}
