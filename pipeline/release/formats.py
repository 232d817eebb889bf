"""Further formats of an export beside its checkpoint, each checked before the export is there.

export/                 the checkpoint (hf)
  adapter/              the PEFT adapter alone
  gguf/NAME-f16.gguf    for llama.cpp; Modelfile for Ollama
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoConfig, AutoTokenizer

from pipeline.config.schema import Export as Settings
from pipeline.dataset.examples import read_examples
from pipeline.model.adapter_folder import copy_companions
from pipeline.model.card import base_name
from pipeline.model.exported import free_memory
from pipeline.model.load import load_folder
from pipeline.model.methods.method import SETTINGS, WEIGHTS
from pipeline.model.precision import DTYPES, dtype_name
from pipeline.prompt.template import Template
from pipeline.prompt.tokens import Tokens
from pipeline.release import verify
from pipeline.release.export import Export
from pipeline.release.gguf import checks as gguf_checks
from pipeline.release.gguf.quantizer import quantize
from pipeline.release.gguf.reader import read_keys
from pipeline.release.gguf.supported import check_architecture
from pipeline.release.gguf.vocabulary import Vocabulary, vocabulary_of
from pipeline.release.gguf.weights import Weights
from pipeline.release.gguf.writer import size_of, write
from pipeline.release.ollama import NAME as MODELFILE
from pipeline.release.ollama import chat_go_template, go_template, modelfile
from pipeline.run.files import need_space, read_json, sha256_file, write_json, write_text
from pipeline.run.progress import say, working
from pipeline.run.width import small

Record = dict[str, Any]
TOKENIZED_ROWS = 200


def check_gguf(export: Export, shape: Any, rows: int) -> None:
    """Checks before the merge that the model can be written as GGUF. shape: its transformers config. rows: of the
    embedding.

    Raises:
        UserError: llama.cpp does not compute the same.
    """
    where = str(export.base.files.folder or "model.geometry")
    check_architecture(shape.to_dict(), where)
    encoder = export.base.encoder
    vocabulary_of(encoder, rows, None)
    modelfile("", "", encoder.tokenizer.token(encoder.end_id), "")


OTHER_FILES = 64_000_000  # bytes of tokenizer, card and records
GGUF_BYTES = {"f16": 2.0, "bf16": 2.0, "q8_0": 34 / 32, "q4_k_m": 2.0 + 0.7}  # a parameter; the last through f16


def extra_space(settings: Settings, parameters: int) -> int:
    """Bytes of disk that an export needs besides its checkpoint. parameters: of the model."""
    gguf = GGUF_BYTES[settings.gguf] * parameters if "gguf" in settings.formats else 0
    return OTHER_FILES + int(gguf)


def write_formats(
    export: Export, settings: Settings, name: str, merged_log_probs: torch.Tensor, folder: Path
) -> dict[str, Record]:
    """Writes and checks all formats of `export.formats` but `hf`; returns a record of each for suri.json.

    Args:
        name: of the run. merged_log_probs: of the checkpoint in `folder`.

    Raises:
        UserError: a check failed, or the disk is too small.
    """
    records: dict[str, Record] = {}
    if "adapter" in settings.formats:
        records["adapter"] = _write_adapter(export, merged_log_probs, folder / "adapter")
    if "gguf" in settings.formats:
        records["gguf"] = _write_gguf(export, settings.gguf, name, folder)
    return records


def _write_adapter(export: Export, merged_log_probs: torch.Tensor, folder: Path) -> Record:
    """The adapter of the training, without a path of this machine, loaded by stock peft."""
    source, base = export.run.folder("adapter"), export.base
    folder.mkdir()
    shutil.copyfile(source / WEIGHTS, folder / WEIGHTS)
    copy_companions(source, folder)
    peft_settings = read_json(source / SETTINGS)
    write_json(folder / SETTINGS, {**peft_settings, "base_model_name_or_path": base_name(base.model) or None})
    with working("export: loading the adapter with stock peft"):
        model = PeftModel.from_pretrained(base.load(), folder).eval()
        log_probs = export.log_probabilities(model)
    del model
    free_memory()
    limit, kind = verify.tolerance(dtype_name(base.model), base.model.quantize, export.dtype)
    error = verify.divergence(log_probs, merged_log_probs)
    result = (
        f"stock peft on the base gives the checkpoint's logits (KL {small(error, 2)} a token, limit {small(limit)} "
    )
    result += f"in {kind})"
    if not error <= limit:
        raise export.checks.fail("adapter", result, verify.REPORT)
    export.checks.passed("adapter", result)
    return {"file": f"adapter/{WEIGHTS}", "sha256": sha256_file(folder / WEIGHTS)}


def _write_gguf(export: Export, kind: str, name: str, checkpoint: Path) -> Record:
    """The GGUF file and its Modelfile."""
    folder, encoder, dtype = checkpoint / "gguf", export.base.encoder, DTYPES[export.dtype]
    folder.mkdir()
    path = folder / f"{name}-{kind}.gguf"
    shape = AutoConfig.from_pretrained(checkpoint, local_files_only=True)
    architecture = check_architecture(shape.to_dict(), str(checkpoint))
    weights = Weights(checkpoint, shape, architecture)
    rows = weights.shapes["token_embd.weight"][0]
    vocabulary = vocabulary_of(encoder, rows, shape.pad_token_id)
    template = chat_template(encoder, checkpoint)
    _write_file(path, weights, vocabulary, kind, architecture, {
        "general.name": name, "tokenizer.chat_template": template,
    })  # fmt: skip
    keys = read_keys(path)
    if keys["tokenizer.chat_template"] != template:
        raise export.checks.fail("GGUF template", "the file holds another chat template", verify.REPORT)
    is_chat = not isinstance(encoder.template, Template)
    gguf_checks.check_tokenizer(keys, _prompt_pairs(export, checkpoint), is_chat, encoder.end_id, export.checks)

    probe = gguf_checks.Probe(_probe_tokens(export), _prompts(export), encoder.end_id)
    with working("export: measuring the checkpoint for GGUF"):
        model = load_folder(checkpoint, dtype, "the export")
        wanted = gguf_checks.behaviour(model, probe, "checkpoint")
    del model
    free_memory()
    with working("export: reading the GGUF file back"):
        model = gguf_checks.load(path, dtype, checkpoint)
        given = gguf_checks.behaviour(model, probe, "GGUF")
    gguf_checks.check_model(model, kind, wanted, given, probe, export.checks)
    text = _modelfile(export, path.name, checkpoint, vocabulary.add_bos)
    if text:
        write_text(folder / MODELFILE, text)
        say(f"export: GGUF ({kind}) for llama.cpp, with a Modelfile for Ollama, is among its files")
    else:
        why = "this chat template does more than to put texts around messages, which Ollama's cannot follow"
        say(f"export: GGUF ({kind}) for llama.cpp is among its files, without a Modelfile: {why}")
    return {
        "file": f"gguf/{path.name}", "type": kind, "sha256": sha256_file(path), "modelfile": bool(text),
        "nll": {"checkpoint": wanted.nll, "gguf": given.nll, "tokens": given.count},
    }  # fmt: skip


def _modelfile(export: Export, file: str, checkpoint: Path, adds_bos: bool) -> str:
    """The text of Ollama's Modelfile; empty where its templates cannot render what training did."""
    encoder = export.base.encoder
    end = encoder.tokenizer.token(encoder.end_id)
    if isinstance(encoder.template, Template):
        note = "The system message of a request, if any, is the input of the instruction, as in training."
        return modelfile(file, go_template(encoder.template, end), end, note)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint, local_files_only=True)

    def render(messages: list[dict[str, str]], answer: bool) -> str:
        return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=answer))

    template = chat_go_template(render, tokenizer.bos_token if adds_bos else "")
    return modelfile(file, template, end, "The chat template of the training.") if template else ""


def _write_file(
    path: Path, weights: Weights, vocabulary: Vocabulary, kind: str, architecture: str, texts: dict[str, str]
) -> None:
    """Writes the file; q4_k_m through a temporary one in f16, as llama.cpp's own tools do."""
    first = "f16" if kind == "q4_k_m" else kind
    need_space(path.parent, size_of(weights, first) * (2 if first != kind else 1), "the GGUF file")
    if first == kind:
        write(path, weights, vocabulary, kind, architecture, texts)
        return
    temporary = path.with_name("f16.gguf")
    write(temporary, weights, vocabulary, first, architecture, texts)
    with working(f"export: quantising to {kind}"):
        quantize(temporary, path, kind)
    temporary.unlink()


def chat_template(encoder: Any, checkpoint: Path) -> str:
    """The chat template in the file.

    Without BOS and without the space behind it that the checkpoint's has for LLaMA's tokenizer: llama.cpp adds both.
    """
    jinja = getattr(encoder.template, "jinja", None)
    if jinja is None:
        return (checkpoint / "chat_template.jinja").read_text(encoding="utf-8")
    return str(jinja("", encoder.tokenizer.token(encoder.end_id)))


def _probe_tokens(export: Export) -> Tokens:
    """Held-out rows; of training where there are none."""
    held_out = Tokens(export.run.folder("tokens") / "val.arrow")
    return held_out if len(held_out) else Tokens(export.run.folder("tokens") / "train.arrow")


def _prompt_pairs(export: Export, checkpoint: Path) -> list[tuple[str, list[int]]]:
    """Prompts of rows of val and train as text and as ids; with a chat template: of their instructions."""
    dataset, encoder = export.run.folder("dataset"), export.base.encoder
    every = (row for split in ("val", "train") for row in read_examples(dataset, split))
    rows = itertools.islice(every, TOKENIZED_ROWS)
    if isinstance(encoder.template, Template):
        texts = [(row.instruction, row.input) for row in rows]
        return [(encoder.template.prompt(*text), encoder.prompt(*text)) for text in texts]
    tokenizer = AutoTokenizer.from_pretrained(checkpoint, local_files_only=True)
    specials = [token for token in encoder.tokenizer.special_ids.values() if token]
    pairs = []
    for row in rows:
        if not any(token in row.instruction for token in specials):  # text in training, tokens in llama.cpp
            messages = [{"role": "user", "content": row.instruction}]
            text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
            pairs.append((text, encoder.prompt(row.instruction)))
    return pairs


def _prompts(export: Export) -> Sequence[Sequence[int]]:
    examples = export.examples[: gguf_checks.ANSWERS]
    return [export.base.encoder.prompt(example.instruction, example.input) for example in examples]


def section(records: dict[str, Record]) -> str:
    """Part of the model card; empty without further formats."""
    if not records:
        return ""
    lines = [f"| {name} | `{r['file']}` | {r['sha256']} |" for name, r in records.items()]
    parts = ["## Formats", "\n".join(["| format | file | sha256 |", "|---|---|---|", *lines])]
    return "\n" + "\n\n".join(parts) + "\n"
