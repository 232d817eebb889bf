"""The plan of a run, and how a command ends."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pipeline.command import guarded
from pipeline.config import Config
from pipeline.config_file import load
from pipeline.errors import Interrupted, UserError
from pipeline.training.plan import Plan, lines, plan

CONFIGS = Path(__file__).parents[1] / "configs"
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
    assert (found.trained, found.steps, found.rows) == (4_194_304, 1173, 49_942)
    assert found.parameters - found.trained == 6_738_415_616 - found.trained
    assert "4,194,304" in text
    assert "16.8 MB" in text
    assert "1,173 of 128 rows (391 an epoch x 3 epochs), 100 of them warm-up" in text
    assert found.weights_gib == pytest.approx(6_738_415_616 * 2 / 2**30, rel=1e-6)
    assert found.training_gib == pytest.approx(4_194_304 * 16 / 2**30)
    assert 2 < found.token_mib < 15  # 32 layers, hidden 4096, no recomputation: some 5 to 8 MiB


def test_alpaca_7b_full() -> None:
    found, text = planned("alpaca-7b-full")
    assert found.parameters == found.trained == 6_738_423_808  # with [PAD], twice a row of 4,096
    assert found.steps == 1221
    assert found.weights_gib + found.training_gib == pytest.approx(16 * 6_738_423_808 / 2**30)
    assert "checkpoint 27.0 GB" in text


def test_koalpaca_polyglot() -> None:
    found, _ = planned("koalpaca-polyglot-5.8b")
    assert found.parameters == found.trained == 5_885_059_072


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
        ("model_type: lama, hidden_size: 32", "unknown model_type 'lama'", "llama"),
        ("model_type: llama, hiden_size: 32", "unknown key 'hiden_size'", "hidden_size"),
        ("model_type: llama, hidden_size: 30, num_attention_heads: 4", "not a geometry|no model has this shape", ""),
        ("model_type: llama, hidden_size: big", "not a geometry", "config.json"),
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
        (KeyboardInterrupt(), 130, "\nsuri: stopped; results of finished stages are whole\n"),
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
