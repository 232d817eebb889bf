"""`make bench`: packed peers keep rows apart, and pages quote what was measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.prompt.pack import Packer
from pipeline.run.errors import UserError
from pipeline.run.files import read_json
from scripts.benchmarks import bench_train, bench_worker, peers
from scripts.benchmarks.bench_cases import CASES, HF_PACKED, OURS, Case, default_cases
from scripts.benchmarks.bench_models import fast_model, model_of
from scripts.benchmarks.bench_results import (
    FILE,
    PAGES,
    cells_of,
    english,
    korean,
    reference_losses,
    table,
    with_results,
)
from scripts.benchmarks.bench_worker import checked_rows, draw_packs, only_row
from tests.helpers.packs import A, B, random_tokens, tokens_of

ROOT = Path(__file__).parents[2]


def test_a_row_has_the_same_loss_in_every_case(tmp_path: Path) -> None:
    """Alone, padded, packed by the peer, packed by this project with a shared preamble; and not if rows see others."""
    torch.set_num_threads(1)
    drawn = np.random.default_rng(0)
    kinds = [(B, A)[n % 2] for n in range(12)]  # behind each preamble a prompt of one or two tokens, then the answer
    parts = [[*kind, *drawn.integers(30, 90, 6 + n).tolist()] for n, kind in enumerate(kinds)]
    tokens = tokens_of(tmp_path, parts, [len(kind) + 1 + n % 2 for n, kind in enumerate(kinds)])
    rows = checked_rows(tokens, [A, B])
    assert rows == [1, 3, 5, 0, 2, 4]
    model = model_of(Case(HF_PACKED, shape="tiny"))
    with torch.no_grad():
        for name, weight in model.named_parameters():  # a larger model's attention says more than this one's
            if "self_attn" in name and "lora" not in name:
                weight.mul_(10)
        padded = peers.PaddedRows(model, tokens, autocast=False)
        alone = torch.stack([padded.loss([row]) for row in rows])
        together = torch.stack([padded.loss(rows, n) for n in range(len(rows))])
        ours = fast_model(Case(OURS, shape="tiny"), model, tokens)
        packs = [only_row(Packer(tokens, shared, 1 << 40).pack(rows), n) for shared in ([], [A, B]) for n in range(6)]
        fast = torch.stack([ours.loss_sum(ours.prepare(pack)) / pack.labelled for pack in packs])
        packed = peers.PackedRows(model, tokens)
        apart = torch.stack([packed.loss(rows, n) for n in range(len(rows))])
        leaking = torch.stack([packed.loss(rows, n, leaking=True) for n in range(len(rows))])
    for losses in (together, apart, fast[:6], fast[6:]):
        torch.testing.assert_close(losses, alone, rtol=1e-5, atol=1e-5)
    assert (leaking[1:] - alone[1:]).abs().min() > 1e-4  # nothing stands before the first row


def test_packed_rows_train_as_padded_ones(tmp_path: Path) -> None:
    """Gradients of the adapter, from one micro-batch."""
    torch.set_num_threads(1)
    tokens = random_tokens(tmp_path, [A, B], count=12)
    rows = [row for row in range(12) if tokens.labelled[row]]
    model = model_of(Case(HF_PACKED, shape="tiny"))
    gradients = []
    padded = peers.PaddedRows(model, tokens, autocast=False)
    for loss in (lambda: padded.loss(rows), lambda: peers.PackedRows(model, tokens).loss(rows)):
        loss().backward()
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
        model.zero_grad(set_to_none=True)
    assert gradients[0]
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-5)


def test_a_case_begins_in_training_mode_with_an_adapter_that_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Outside of it Liger Kernel makes all logits. Cases that share a model do not see what the one before learnt."""
    monkeypatch.setattr(bench_worker, "product_rate", lambda: 1.0)
    worker = bench_worker.Worker(random_tokens(tmp_path, [A, B], count=12), [A, B], {})
    model = worker.load(CASES["tiny hf"])
    adapter = [p for name, p in model.named_parameters() if "lora_B" in name]
    with torch.no_grad():
        for weight in adapter:
            weight.fill_(1)
    model.eval()
    assert worker.load(CASES["tiny hf"]) is model
    assert model.get_base_model().training
    assert adapter
    assert not any(weight.any() for weight in adapter)


def test_long_padded_rows_go_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "MOST_PADDED", 40)
    tokens = random_tokens(tmp_path, [A, B], count=64)
    taken: list[list[int]] = []

    class Noted:
        def __init__(self) -> None:
            self.tokens = tokens

        def loss(self, rows: list[int]) -> torch.Tensor:
            taken.append(rows)
            return torch.zeros((), requires_grad=True)

    steps = peers.padded_steps(Case("hf", rows=4), Noted())  # type: ignore[arg-type]
    for _ in range(30):
        next(steps)
    assert all(len(rows) * int(tokens.lengths[rows].max()) <= 40 or len(rows) == 1 for rows in taken)
    assert {len(rows) for rows in taken} >= {2, 4}


def test_every_packed_case_computes_the_same_rows(tmp_path: Path) -> None:
    tokens = random_tokens(tmp_path, [A], count=60)
    packs = draw_packs(tokens, 100)
    assert packs == draw_packs(tokens, 100)
    for rows in packs[:-1]:
        assert int(tokens.lengths[rows].sum()) <= 100 + int(tokens.lengths.max())


def test_cases_of_a_library_have_their_own_process() -> None:
    by_process: dict[str, set[str]] = {}
    for case in CASES.values():
        by_process.setdefault(case.process, set()).add(case.how)
    assert by_process == {
        "stock": {"ours", "hf", "hf packed"}, "liger": {"liger", "liger packed"}, "unsloth": {"unsloth"},
    }  # fmt: skip
    assert set(by_process) == set(bench_train.PROCESSES)


def test_a_missing_library_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert CASES["Liger packed, varlen"].missing() == 'pip install -e ".[liger]"'
    assert CASES["Unsloth, grouped 64"].missing().startswith("pip install unsloth")
    assert CASES["Unsloth 4-bit, checkpointed"].missing().endswith("; pip install bitsandbytes")
    assert not CASES["shared"].missing()


def test_a_case_that_fails_leaves_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    random_tokens(tmp_path, [A, B], count=12)
    plan = {
        "cases": ["tiny hf", "tiny"], "profile": False, "tokens": str(tmp_path / "rows.arrow"), "preambles": [A, B],
        "results": str(tmp_path / "results.jsonl"), "weights": {}, "save": {},
    }  # fmt: skip
    (tmp_path / "plan.json").write_text(json.dumps(plan))

    def measured(worker: bench_worker.Worker, case: Case) -> dict[str, Any]:
        if case.how == "hf":
            raise AttributeError("no such thing\nin this version")
        return results(OURS_7B)["cases"][0]

    monkeypatch.setattr(bench_worker, "product_rate", lambda: 1.0)
    monkeypatch.setattr(bench_worker.Worker, "measure", measured)
    monkeypatch.setattr("sys.argv", ["bench_worker", str(tmp_path / "plan.json"), "stock"])
    bench_worker.main()
    failed, done = map(json.loads, (tmp_path / "results.jsonl").read_text().splitlines())
    assert failed["failed"].startswith("AttributeError: no such thing")
    assert done["tokens_per_second"] == 28_000
    assert "in this version" in capsys.readouterr().err


def case(name: str, rate: float, losses: list[float], **more: Any) -> dict[str, Any]:
    return {
        "name": name, "tokens_per_second": rate, "first_quartile": rate - 10, "third_quartile": rate + 10,
        "mean": rate, "milliseconds": 500.0, "gibibytes": 48.5, "is_steady": True, "warm_up_steps": 12, "steps": 12,
        "share_of_products": 0.9, "row_losses": losses, **more,
    }  # fmt: skip


def results(*cases: dict[str, Any]) -> dict[str, Any]:
    return {
        "machine": "NVIDIA H200", "versions": {"torch": "2.11.0"}, "commit": "abc1234", "date": "2026-12-01",
        "command": "make bench", "rows": 6000, "products": 6.4e14, "cases": list(cases),
    }  # fmt: skip


OURS_7B = case("shared", 28_000.0, [11.0, 11.2])
PEER = case("Liger packed, varlen", 17_500.0, [11.001, 11.199], row_losses_if_leaking=[11.0, 11.6])


def test_the_sentence_compares_with_the_fastest_liger_case() -> None:
    grouped = case("hf grouped 64, Liger", 13_000.0, [11.0, 11.2])
    call = results(OURS_7B, grouped, PEER)
    assert english(call) == (
        "1.6 times the speed of transformers + peft with Liger Kernel on packed rows "
        "(LoRA on a 7B model in bf16, one H200)"
    )
    assert "1.6배 빠릅니다" in str(korean(call))
    assert "on packed rows" not in str(english(results(OURS_7B, grouped)))
    beside = results(OURS_7B, PEER, case("Unsloth, grouped 64", 14_000.0, [11.0, 11.2]))
    assert "on packed rows and 2.0 times that of Unsloth (LoRA" in str(english(beside))
    assert "1.6배, Unsloth보다 2.0배 빠릅니다" in str(korean(beside))


def test_without_the_peer_the_sentence_stays(tmp_path: Path) -> None:
    missing = {"name": "Liger packed, varlen", "failed": 'not installed: pip install -e ".[liger]"'}
    call = results(OURS_7B, missing)
    assert english(call) is None
    text = "Fast. <!-- bench: speed -->2.0 times<!-- /bench -->: rows"
    assert with_results(text, Path("README.md"), call) == text
    assert with_results(text, Path("README.md"), results(OURS_7B, PEER)).startswith(
        "Fast. <!-- bench: speed -->1.6 times"
    )


def test_a_peer_that_computes_something_else_is_marked() -> None:
    call = results(OURS_7B, PEER)
    reference = reference_losses(call, PEER["name"])
    assert cells_of(PEER, reference)[-1] == "0.0010 (leaking: 0.4000)"
    wrong = {**PEER, "row_losses": [11.0, 11.5]}
    assert cells_of(wrong, reference)[-1] == "0.3000 ! (leaking: 0.4000)"
    assert cells_of(OURS_7B, reference)[-1] == ""


def test_the_table_has_a_line_for_each_case() -> None:
    failed = {"name": "Unsloth, grouped 64", "failed": "not installed: pip install unsloth"}
    lines = table(results(OURS_7B, PEER, failed)).splitlines()
    rows = [line for line in lines if line.startswith("|")]
    assert len(rows) == 5
    assert len({line.count("|") for line in rows}) == 1
    assert "not installed" in rows[-1]
    assert "commit abc1234, 2026-12-01" in lines[-2]


def test_two_calls_make_one_table() -> None:
    """The later one counts, in the table's order; never of two commits."""
    call = {"commit": "a", "machine": "card", "versions": {}, "rows": 1, "products": 2.0}
    first = {**call, "command": "make bench fp8 packed", "cases": [{"name": n, "n": 1} for n in ("fp8", "packed")]}
    later = {**call, "command": "make bench shared fp8", "cases": [{"name": n, "n": 2} for n in ("shared", "fp8")]}
    both = bench_train.merged(first, later)
    assert [(case["name"], case["n"]) for case in both["cases"]] == [("packed", 1), ("shared", 2), ("fp8", 2)]
    assert both["command"] == "make bench fp8 packed, then make bench shared fp8"
    with pytest.raises(UserError, match="another commit: a, not b"):
        bench_train.merged(first, {**later, "commit": "b"})


def test_a_page_without_its_place_is_an_error() -> None:
    with pytest.raises(UserError, match="no place for 'speed'"):
        with_results("nothing", Path("README.md"), results(OURS_7B, PEER))


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_pages_say_what_was_measured(page: Path) -> None:
    """Each has its places, and what stands there is written from docs/bench.json, once there is one."""
    text = (ROOT / page).read_text(encoding="utf-8")
    file = ROOT / FILE
    measured = read_json(file) if file.is_file() else results()
    if file.is_file():
        assert with_results(text, page, measured) == text, "run: python -m scripts.benchmarks.bench_results"
    else:
        assert all(f"<!-- bench: {name} -->" in text for name in PAGES[page])


def test_the_default_cases_exist() -> None:
    assert set(default_cases(True)) | set(default_cases(False)) <= set(CASES)
    assert "Liger packed, varlen" in default_cases(True)
    assert default_cases(False)[0] == "tiny"
