"""The method that a config names: its description, and settings of the config that the method does not support."""

from __future__ import annotations

from pipeline.config.methods import METHODS, MethodSpec
from pipeline.config.schema import Adapter, Config

Key = tuple[str | int, ...]
Problem = tuple[Key, str]


def spec_of(adapter: Adapter) -> MethodSpec:
    """The method that a config names."""
    return METHODS[adapter.method]


def has_kernels(adapter: Adapter) -> bool:
    """Whether the fused kernels know the method's parameters, so that a block is computed as one function."""
    return adapter.method == "lora" and not adapter.dora


def description(adapter: Adapter) -> str:
    """The method and its size, in one line for cards and pages."""
    spec = spec_of(adapter)
    if spec.name == "lora":
        words = ["rsLoRA" if adapter.rslora else "DoRA" if adapter.dora else "LoRA"]
        words += [f"r = {adapter.r}", f"alpha = {adapter.alpha:g}"]
        words += [f"started by {adapter.init}"] if adapter.init != "default" else []
        return ", ".join([*words, "merged"])
    if spec.name == "full":
        return "all weights trained"
    if spec.name == "none":
        return f"nothing trained, {adapter.shots} examples in front of each question"
    if "bottleneck" in spec.keys:
        return f"{spec.trains} (size {adapter.bottleneck})"
    if "virtual_tokens" in spec.keys:
        return f"{spec.trains} ({adapter.virtual_tokens} virtual tokens)"
    return spec.trains


def method_problems(config: Config) -> list[Problem]:
    """(key, what is wrong and what to do) for all in the config that its method cannot do.

    A key that the method does not read may be there with its default.
    """
    spec, quantize = spec_of(config.adapter), config.model.quantize
    problems = _unused_keys(spec, config.adapter)
    if quantize in ("nf4", "int8") and spec.no_quantized:
        what = f"{spec.name} cannot be used on a base in {quantize}: {spec.no_quantized}; set model.quantize=none"
        problems.append((("adapter", "method"), f"{what} or adapter.method=lora"))
    if quantize == "fp8" and (spec.never_packed or not has_kernels(config.adapter)):
        why = spec.never_packed or "the kernels for fp8 know plain LoRA alone"
        problems.append((("model", "quantize"), f"no fp8 with {spec.name}: {why}; set quantize=none"))
    if config.model.add_tokens and spec.no_tokens:
        what = f"{spec.name} cannot train new tokens: {spec.no_tokens}; use lora or full, or remove add_tokens"
        problems.append((("model", "add_tokens"), what))
    if config.train.checkpointing == "stream" and (why := _not_streamed(config)):
        problems.append((("train", "checkpointing"), f"no stream with {why}; set block or offload"))
    if config.train.shard == "full" and (problem := not_sharded(config)):
        problems.append((("train", "shard"), f"{problem[0]}; {problem[1]}"))
    problems += _format_problems(spec, config.export.formats)
    return problems + _OF_METHOD.get(spec.name, lambda config: [])(config)


def _not_streamed(config: Config) -> str:
    """What excludes `train.checkpointing=stream`; empty where nothing does."""
    adapter = config.adapter
    if not has_kernels(adapter):
        return (
            f"{'DoRA' if adapter.dora else spec_of(adapter).name}: plain LoRA alone leaves the blocks frozen and unread"
        )
    if adapter.init != "default":
        return f"adapter.init={adapter.init}, which changes the base's weights"
    if config.model.quantize == "fp8":
        return "a base in fp8, whose copies by rows and by columns are as large as bf16"
    return ""


def not_sharded(config: Config) -> tuple[str, str] | None:
    """What excludes `train.shard=full`, and what to do; None where nothing does."""
    adapter, train, is_full = config.adapter, config.train, config.adapter.method == "full"
    if train.checkpointing in ("offload", "stream"):
        what = f"train.checkpointing={train.checkpointing} moves to main memory what the ranks gather"
        return what, "set train.checkpointing=block"
    if adapter.init != "default":
        what = f"adapter.init={adapter.init} changes the base's weights, of which a rank has a part"
        return what, "set adapter.init=default"
    if config.model.quantize == "fp8":
        return "fp8 keeps copies of the base by rows and by columns, as large as bf16", "set model.quantize=none or nf4"
    if train.ewc:
        return "train.ewc reads whole gradients, row by row", "set train.l2_sp instead, or train.shard=none"
    if not (is_full or has_kernels(adapter)):
        name = "DoRA" if adapter.dora else spec_of(adapter).name
        return f"{name} is not among the methods for it", "use plain lora or full, or set train.shard=none"
    if is_full and train.optimizer != "adamw":
        what = f"train.optimizer={train.optimizer} needs whole weights, of which a rank has a part"
        return what, "set train.optimizer=adamw, whose moments are sharded too"
    return None


def _unused_keys(spec: MethodSpec, adapter: Adapter) -> list[Problem]:
    problems: list[Problem] = []
    for key in sorted(adapter.model_fields_set - {"method", *spec.keys}):
        default = Adapter.model_fields[key].get_default(call_default_factory=True)
        if getattr(adapter, key) != default:
            reads = f"it reads {', '.join(spec.keys)}" if spec.keys else "it reads none of these keys"
            neutral = f"[{', '.join(default)}]" if isinstance(default, tuple) else str(default).lower()
            what = f"{spec.name} does not use it ({reads}); remove it, or set its default, {neutral}"
            problems.append((("adapter", key), what))
    return problems


def _format_problems(spec: MethodSpec, formats: tuple[str, ...]) -> list[Problem]:
    key = ("export", "formats")
    if "hf" not in formats:
        return [(key, "hf is missing: chat and measurements load it, the other formats are made from it; add hf")]
    if len(set(formats)) < len(formats):
        return [(key, "names a format twice")]
    if spec.export != "merged" and len(formats) > 1:
        what = f"{spec.name} cannot be merged into its base: the other formats need merged weights; set [hf]"
        return [(key, what)]
    if "adapter" in formats and not spec.is_peft:
        return [(key, f"{spec.name} trains the base's own weights, there is no PEFT adapter; remove adapter")]
    return []


def _lora(config: Config) -> list[Problem]:
    problems: list[Problem] = []
    adapter, quantize = config.adapter, config.model.quantize
    if adapter.init != "default" and quantize != "none":
        what = f"{adapter.init} takes its start out of the base's weights, which a base in {quantize} "
        problems.append((("adapter", "init"), what + "has only rounded; set model.quantize=none or init=default"))
    if adapter.init != "default" and adapter.dora:
        what = f"no {adapter.init} with DoRA: the difference from its start is no DoRA update; drop one of them"
        problems.append((("adapter", "init"), what))
    if adapter.dora and quantize == "int8":
        what = "no DoRA on int8: peft cannot read the norms of such weights back; set model.quantize=nf4 or none"
        problems.append((("adapter", "dora"), what))
    if adapter.dora and adapter.rslora:
        problems.append((("adapter", "rslora"), "no rsLoRA with DoRA, whose norms undo any scale; drop one of them"))
    return problems


def _prefix(config: Config) -> list[Problem]:
    if config.train.checkpointing not in ("block", "offload"):
        return []
    what = "prefix keeps its keys in a cache, which blocks computed again would fill twice; set auto or none"
    return [(("train", "checkpointing"), what)]


def _none(config: Config) -> list[Problem]:
    problems: list[Problem] = []
    if config.train.max_steps:
        problems.append((("train", "max_steps"), "adapter.method=none trains nothing: it takes no steps; remove it"))
    for key in ("early_stop", "best", "neftune"):
        if getattr(config.train, key):
            problems.append((("train", key), "adapter.method=none trains nothing: it takes no steps; remove it"))
    for key in ("l2_sp", "ewc"):
        if getattr(config.train, key):
            problems.append((("train", key), "adapter.method=none trains nothing that could be held; remove it"))
    return problems


_OF_METHOD = {"lora": _lora, "prefix": _prefix, "none": _none}
