"""The plan of a run, and how a command ends."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.cli.look import show_plan
from pipeline.command import guarded
from pipeline.config.load import load
from pipeline.config.schema import Config
from pipeline.model import adapter as adapters
from pipeline.model.load import load_folder
from pipeline.model.packed.model import PackedModel
from pipeline.run.errors import Interrupted, UserError
from pipeline.run.folder import Run
from pipeline.training.ewc import with_importances, zero_sums
from pipeline.training.penalty import terms_of
from pipeline.training.plan import Plan, plan
from pipeline.training.plan_lines import lines
from tests.helpers.tiny import make_config

CONFIGS = Path(__file__).parents[2] / "configs"
BASES = CONFIGS.parent / "docs" / "bases.md"
POLYGLOT_12_8B = """
name: k10
model:
  base: EleutherAI/polyglot-ko-12.8b
  geometry: {model_type: gpt_neox, hidden_size: 5120, num_hidden_layers: 40, intermediate_size: 20480,
             num_attention_heads: 40, vocab_size: 30080}
data: {sources: [{path: beomi/KoAlpaca-v1.1a}]}
adapter: {r: 8, targets: [query_key_value]}
"""


def write(folder: Path, text: str) -> Config:
    path = folder / "config.yaml"
    path.write_text(text)
    return load(path, [])


def planned(name: str) -> tuple[Plan, str]:
    config = load(CONFIGS / f"{name}.yaml", [])
    found = plan(config)
    return found, "\n".join(lines(config, found))


def test_alpaca_lora_7b() -> None:
    found, text = planned("alpaca-lora-7b")
    assert (found.trained, found.steps, found.rows) == (4_194_304, 1170, 49_942)
    assert found.parameters - found.trained == 6_738_415_616 - found.trained
    assert "4,194,304" in text
    assert "16.8 MB" in text
    assert "1,170 of 128 rows (390 an epoch x 3 epochs, the rest of an epoch carried" in text
    assert ", 100 of them warm-up" in text
    assert found.weights_gib == pytest.approx(6_738_415_616 * 2 / 2**30, rel=1e-6)
    assert found.training_gib == pytest.approx(4_194_304 * 16 / 2**30, rel=1e-4)  # with the moments' step counts
    assert 2 < found.token_mib < 15  # 32 layers, hidden 4096, no recomputation: some 5 to 8 MiB
    assert 32 * 4096 * 2 / 2**20 < found.recomputed_mib < found.token_mib / 4  # the inputs of 32 blocks, and one block


def test_alpaca_7b_full() -> None:
    found, text = planned("alpaca-7b-full")
    assert found.parameters == found.trained == 6_738_423_808  # with [PAD], twice a row of 4,096
    assert found.steps == 1218
    assert found.weights_gib + found.training_gib == pytest.approx(16 * 6_738_423_808 / 2**30)
    assert "checkpoint 80.9 GB" in text


RECIPES = [
    # config, rows, steps, trained parameters, MB of the adapter in float32: published, or their arithmetic
    ("alpaca-7b-full", 52_002, 1218, 6_738_423_808, None),
    ("alpaca-13b-full", 52_002, 2030, 13_015_874_560, None),
    ("alpaca-opt-6.7b-full", 52_002, 1218, 6_658_473_984, None),
    ("alpaca-lora-7b", 49_942, 1170, 2 * 32 * 2 * 8 * 4096, "16.8"),
    ("alpaca-lora-7b-tweak", 49_942, 1170, 2 * 32 * 2 * 8 * 4096, "16.8"),
    ("alpaca-lora-7b-official", 49_942, 3900, 4 * 32 * 2 * 16 * 4096, "67.1"),
    ("alpaca-lora-7b-early", 50_002, 1170, 2 * 32 * 2 * 8 * 4096, "16.8"),
    ("koalpaca-7b-v1.0", 101_622, 2382, 6_738_423_808, None),  # 2,382 as its wandb record has it
    ("koalpaca-polyglot-12.8b", 21_155, 166, 12_893_603_840, None),
    ("koalpaca-polyglot-5.8b", 21_155, 498, 5_885_059_072, None),
    ("koalpaca-polyglot-5.8b-3090", 21_155, 2645, 5_885_059_072, None),
    ("koalpaca-polyglot-5.8b-tp", 21_155, 662, 5_885_059_072, None),
    ("koalpaca-polyglot-12.8b-qlora", 21_155, 1323, 40 * 8 * (5120 + 3 * 5120), "26.2"),  # 6.55 M and 26.2 MB
]


@pytest.mark.parametrize(("name", "rows", "steps", "trained", "megabytes"), RECIPES, ids=[r[0] for r in RECIPES])
def test_recipes_keep_to_the_published_arithmetic(
    name: str, rows: int, steps: int, trained: int, megabytes: str | None
) -> None:
    found, text = planned(name)
    assert (found.rows, found.steps, found.trained) == (rows, steps, trained)
    assert megabytes is None or f"adapter    {megabytes} MB in float32" in text
    assert found.trained == found.parameters or megabytes


@pytest.mark.parametrize("name", ["lora-llama-2-7b", "lora-llama-3.1-8b", "lora-qwen2.5-7b", "lora-mistral-7b"])
def test_the_recipe_on_newer_bases(name: str) -> None:
    """Rank 16 on every linear layer of each block, in and out."""
    config = load(CONFIGS / f"{name}.yaml", [])
    shape = config.model.geometry
    assert shape is not None
    hidden, inner, blocks = (shape[k] for k in ("hidden_size", "intermediate_size", "num_hidden_layers"))
    keys = hidden * shape.get("num_key_value_heads", shape["num_attention_heads"]) // shape["num_attention_heads"]
    sides = 2 * (hidden + hidden) + 2 * (hidden + keys) + 3 * (hidden + inner)
    assert plan(config).trained == 16 * blocks * sides


# Billions of parameters as published, some rounded and some cut; docs/bases.md says where.
PUBLISHED = {
    "llama-3.2-1b": "1.23", "llama-3.2-3b": "3.21", "llama-3.1-8b": "8.03", "qwen3-0.6b": "0.6", "qwen3-1.7b": "1.7",
    "qwen3-4b": "4.02", "qwen3-8b": "8.2", "gemma-3-1b": "1", "mistral-7b-v0.3": "7.25", "phi-4-mini": "3.8",
    "smollm3-3b": "3.08", "exaone-4.0-1.2b": "1.2", "midm-2.0-mini": "2.3", "solar-10.7b": "10.7",
}  # fmt: skip


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("chat-*.yaml")), ids=lambda path: path.stem)
def test_bases_with_chat_templates_have_their_published_size(path: Path) -> None:
    config = load(path, [])
    found = plan(config)
    published = PUBLISHED[path.stem.removeprefix("chat-")]
    assert abs(found.parameters / 1e9 - float(published)) < 10 ** -len(published.partition(".")[2])
    row = next(line for line in BASES.read_text(encoding="utf-8").splitlines() if f"`{config.model.base}`" in line)
    assert f"| {found.parameters:,} |" in row
    assert config.prompt.is_chat


def test_every_base_of_the_table_has_its_config() -> None:
    assert {path.stem.removeprefix("chat-") for path in CONFIGS.glob("chat-*.yaml")} == set(PUBLISHED)


def test_unknown_rows_are_said_to_be_unknown(tmp_path: Path) -> None:
    config = write(tmp_path, POLYGLOT_12_8B)
    found = plan(config)
    assert found.trained == 8 * (5120 + 3 * 5120) * 40 == 6_553_600
    text = "\n".join(lines(config, found))
    assert "26.2 MB" in text
    assert found.rows is None
    assert found.steps is None
    assert re.search(r"rows +unknown.*\ntokens +unknown.*\nsteps +unknown", text)


def test_new_tokens_are_counted(tmp_path: Path) -> None:
    shape = "{model_type: llama, hidden_size: 32, num_hidden_layers: 2, num_attention_heads: 4, intermediate_size: 48,"
    shape += " vocab_size: 400}"
    source = "data: {sources: [{path: no-such/data, rows: 10}]}"
    text = (
        f"name: a\nmodel: {{geometry: {shape}, add_tokens: ['[PAD]']}}\n{source}\nadapter: {{r: 4, targets: [q_proj]}}"
    )
    found = plan(write(tmp_path, text))
    assert found.trained == 2 * 4 * (32 + 32) + 2 * 32  # its row in the embedding and in the head


def test_quantised_weights_are_smaller() -> None:
    config = load(CONFIGS / "alpaca-lora-7b.yaml", ["model.quantize=nf4"])
    assert 3.4 < plan(config).weights_gib < 4.2  # nf4 of 7B, with embedding and head in bf16


@pytest.mark.parametrize(
    ("shape", "what", "fix"),
    [
        ("model_type: t5", "a model of type t5 is no causal language model", "such as one of type llama"),
        ("model_type: llama, hidden_size: 0", "no model has this shape", "above 0"),
        ("model_type: lama, hidden_size: 32", "unknown model_type 'lama'", "llama"),
        ("model_type: llama, hiden_size: 32", "unknown key 'hiden_size'", "hidden_size"),
        ("model_type: llama, hidden_size: 30, num_attention_heads: 4", "not a geometry|no model has this shape", ""),
        ("model_type: llama, hidden_size: big", "not a geometry", "config.json"),
        # Kanana Nano 2.1B has 24 heads of 128; transformers 5.23 does not accept that.
        (
            "model_type: llama, hidden_size: 1792, num_attention_heads: 24, head_dim: 128",
            "not a multiple",
            "config.json",
        ),
        ("model_type: exaone4, sliding_window: null", "not a geometry: .*zero", "config.json"),
    ],
)
def test_geometry_that_cannot_be(tmp_path: Path, shape: str, what: str, fix: str) -> None:
    config = write(
        tmp_path, f"name: a\nmodel: {{geometry: {{{shape}}}}}\ndata: {{sources: [{{path: families, rows: 9}}]}}"
    )
    with pytest.raises(UserError, match=what) as caught:
        plan(config)
    assert fix in caught.value.fix


def test_base_without_network_and_geometry(tmp_path: Path) -> None:
    config = write(tmp_path, "name: a\nmodel: {base: no-such/model}\ndata: {sources: [{path: families, rows: 10}]}")
    with pytest.raises(UserError, match=r"cannot read config.json of 'no-such/model'") as caught:
        plan(config)
    assert "geometry" in caught.value.fix


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (None, 0, ""),
        (UserError("what", "where", "fix"), 2, "suri: what\n  where: where\n  fix:   fix\n"),
        (Interrupted("saved"), 130, "suri: saved\n"),
        (Interrupted("saved", 143), 143, "suri: saved\n"),
        (KeyboardInterrupt(), 130, "\nsuri: stopped; results of finished stages are kept. To go on:\n  make export\n"),
    ],
)
def test_exit_codes(error: BaseException | None, code: int, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> None:
        if error:
            raise error

    assert guarded(work) == code
    assert capsys.readouterr().err == said


def test_unexpected_errors_keep_their_traceback() -> None:
    def work() -> None:
        raise RuntimeError("a mistake in a library")

    with pytest.raises(RuntimeError, match="a mistake in a library"):
        guarded(work)


@pytest.mark.parametrize(
    ("adapter", "penalties"),
    [
        ("{method: full}", ("train.l2_sp=1", "train.ewc=1")),  # they share the start
        ("{method: norms}", ("train.l2_sp=1",)),
        ("{r: 4}", ("train.l2_sp=1",)),  # nothing: B A starts at zero
        ("{r: 4, dora: true}", ("train.ewc=1",)),
        ("{r: 4, init: olora}", ("train.ewc=1",)),
    ],
)
def test_penalties_keep_as_much_as_the_plan_says(
    adapter: str, penalties: tuple[str, ...], base: Path, tmp_path: Path
) -> None:
    """Counted on the tensors that a run holds: starts, and importances in the form in which they are used."""
    (tmp_path / "config.yaml").write_text(f"name: x\nmodel: {{base: {base}, dtype: fp32}}\nadapter: {adapter}\n")
    config = load(
        tmp_path / "config.yaml", [*penalties, "train.ewc_data=x"] if "train.ewc=1" in penalties else penalties
    )
    model = adapters.attach(load_folder(base, torch.float32), config.adapter, 0)
    parts: Any = terms_of(model, adapters.trained(model))
    if config.train.ewc:
        parts = with_importances(parts, zero_sums(parts))
    own = {"a", "b", "weight", "scale"}
    held = [v for part in parts.values() for name, v in vars(part).items() if name not in own and v is not None]
    size = sum(t.numel() * t.element_size() for v in held for t in (v if isinstance(v, tuple) else (v,)))
    found = plan(config)
    assert found.penalty_gib * 2**30 == size
    assert (size == 0) == (adapter == "{r: 4}")
    assert f"{size / 2**30:.2f} GiB for penalties" in "\n".join(lines(config, found))
    if found.fast:
        assert found.fast.blocks + found.fast.rest == pytest.approx(found.weights_gib * 2**30 + size)


def test_copies_of_trained_blocks_are_counted(base: Path, tmp_path: Path) -> None:
    """As a run holds them: products read the blocks' weights in 16 bits, which are trained in float32."""
    text = f"name: x\nmodel: {{base: {base}, dtype: bf16}}\nadapter: {{method: full}}\n"
    (tmp_path / "config.yaml").write_text(text)
    config = load(tmp_path / "config.yaml", [])
    model = adapters.attach(load_folder(base, torch.float32), config.adapter, 0)
    fast = PackedModel(model, 64, dtype=torch.bfloat16)
    held = sum(target.numel() * target.element_size() for target in fast.copies.targets)
    found = plan(config)
    assert found.copies_gib * 2**30 == held > 0
    assert "GiB copies of the blocks' weights in 16 bits" in "\n".join(lines(config, found))
    for word in ("train.fast=false", "model.dtype=fp32"):
        assert plan(load(tmp_path / "config.yaml", [word])).copies_gib == 0


LONG = """
name: long
model:
  base: x/long
  geometry: {model_type: llama, max_position_embeddings: 4096}
  rope_scaling: SCALING
data: {sources: [{path: y/rows, rows: 100}]}
prompt: {cutoff: 16384}
"""


@pytest.mark.parametrize(("scaling", "said"), [
    ("null", "sees 4,096 tokens, and prompt.cutoff allows rows of 16,384"),
    ("{rope_type: dynamic, factor: 4}", "set prompt.cutoff=4096, or lengthen the context: dynamic trains no longer"),
    ("{rope_type: yarn, factor: 2}", "set prompt.cutoff=8192, or lengthen the context: factor: 4 in"),
    ("{rope_type: linear, factor: 4}", ""),
])  # fmt: skip
def test_rows_beyond_the_context_are_told(tmp_path: Path, scaling: str, said: str) -> None:
    config = write(tmp_path, LONG.replace("SCALING", scaling))
    text = "\n".join(lines(config, plan(config)))
    assert (said in text) if said else ("context" not in text)


def test_a_type_that_this_machine_lacks_is_told(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not where the plan is for another machine, named by its memory or its cards."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    config = make_config(tmp_path, base, "model.dtype=fp16")
    other = make_config(tmp_path, base, "model.dtype=fp16", "train.gpu_memory=16")
    said = []
    for one, options in ((config, {}), (other, {}), (config, {"gpus": "1"})):
        show_plan(one, Run(tmp_path / "x"), options)
        said.append("training is refused on this machine: fp16 needs a Volta card" in capsys.readouterr().out)
    assert said == [True, False, False]


def test_early_stopping_that_cannot_happen_is_told(tmp_path: Path) -> None:
    words = LONG.replace("SCALING", "null").replace("rows: 100}]", "rows: 100}], val: 9")
    config = write(tmp_path, words + "train: {early_stop: 3, eval_every: 20}\n")
    text = "\n".join(lines(config, plan(config, {"rows": 320, "tokens": 320, "longest": 9})))
    assert "early stop train.early_stop=3 cannot end this run early" in text
    assert "early stop" not in "\n".join(lines(config, plan(config, {"rows": 3200, "tokens": 320, "longest": 9})))


def test_a_pass_holds_the_longest_row(tmp_path: Path) -> None:
    config = write(tmp_path, LONG.replace("SCALING", "{rope_type: linear, factor: 4}"))
    found = plan(config, {"rows": 99, "tokens": 99 * 300, "longest": 9000})
    assert found.fast is not None
    text = "\n".join(lines(config, found))
    assert f"peak {found.fast.peak(9600, 'none') / 2**30:.2f} GiB if a step runs in one pass (9,600 tokens)" in text
    assert f"peak {found.fast.peak(9000, 'block') / 2**30:.2f} GiB with 9,000 tokens in a pass and activations" in text
    assert "with 16,384 tokens in a pass and" in "\n".join(lines(config, plan(config)))
