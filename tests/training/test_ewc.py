"""Fisher information against closed forms, and EWC in a run."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file

from pipeline.config.schema import Adapter, Config, Prompt
from pipeline.model import adapter as adapters
from pipeline.model.load import load_folder
from pipeline.prompt import template as templates
from pipeline.prompt.encode import Encoder
from pipeline.prompt.general_text import BUILT_IN
from pipeline.prompt.tokenizer import Tokenizer
from pipeline.prompt.tokens import Tokens
from pipeline.run.errors import UserError
from pipeline.run.folder import Run
from pipeline.training import metrics
from pipeline.training.ewc import FILE, _backward, fisher, rehearsal_rows, text_rows, with_importances
from pipeline.training.penalty import LoraTerm, Penalty, add_gradients, terms_of
from tests.helpers.tiny import make_config, run_to
from tests.helpers.training_runs import (
    branch,
    losses_of,
    weights,
)

ALONE = Accelerator(cpu=True)


@pytest.fixture(scope="module")
def encoder(base: Path) -> Encoder:
    return Encoder(templates.load("alpaca-short"), Tokenizer(base), Prompt())


class Softmax(torch.nn.Module):
    """p(next | id) = softmax(W x_id): its Fisher information of W is known, p (1 - p) x^2 a position, on the mean."""

    def __init__(self, lora: bool) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.table = torch.randn(6, 3)
        self.layer = torch.nn.Linear(3, 6, bias=False)
        if lora:
            self.layer.requires_grad_(False)
            self.layer.lora_A = torch.nn.ModuleDict({"default": torch.nn.Linear(3, 2, bias=False)})
            self.layer.lora_B = torch.nn.ModuleDict({"default": torch.nn.Linear(2, 6, bias=False)})
            torch.nn.init.zeros_(self.layer.lora_B["default"].weight)
            self.layer.scaling = {"default": 2.0}
            stock, layer = self.layer.forward, self.layer
            self.layer.forward = lambda x: stock(x) + 2 * layer.lora_B["default"](layer.lora_A["default"](x))

    def forward(self, input_ids: torch.Tensor, use_cache: bool) -> Any:
        return SimpleNamespace(logits=self.layer(self.table[input_ids]))

    def known(self, rows: list[tuple[np.ndarray, np.ndarray]]) -> torch.Tensor:
        """(6, 3): mean over labelled positions."""
        x = torch.cat([self.table[ids[:-1]][labels[1:] != -100] for ids, labels in rows])
        p = (x @ self.layer.weight.detach().t()).softmax(dim=-1)
        return (p * (1 - p)).t() @ x.square() / len(x)


ROWS = [(np.array([0, 3, 1, 5, 2]), np.array([0, -100, 1, 5, 2])), (np.array([4, 4, 2]), np.array([4, 4, 2]))]


def test_fisher_of_a_softmax_is_the_known_one() -> None:
    model = Softmax(lora=False)
    trained = dict(model.named_parameters())
    parts = terms_of(model, trained)
    rows = ROWS * 1500  # labels are drawn: some 3 % of noise are left
    found = fisher(model, parts, rows, ALONE, seed=1)
    torch.testing.assert_close(found["layer.weight"], model.known(ROWS), rtol=0.1, atol=3e-3)
    assert model.training
    assert model.layer.weight.grad is None


def test_fisher_of_lora_is_that_of_the_frozen_weight() -> None:
    """A's own is zero at the start, B = 0; what is kept has the row and column sums of W's."""
    model = Softmax(lora=True)
    parts = terms_of(model, {n: p for n, p in model.named_parameters() if p.requires_grad})
    assert list(parts) == ["layer"]
    found = fisher(model, parts, ROWS * 1500, ALONE, seed=1)
    known = model.known(ROWS)
    torch.testing.assert_close(found["layer|rows"], known.sum(dim=1), rtol=0.1, atol=3e-3)
    torch.testing.assert_close(found["layer|columns"], known.sum(dim=0), rtol=0.1, atol=3e-3)
    held = with_importances(parts, found)["layer"]
    assert isinstance(held, LoraTerm)
    assert held.rows is not None
    assert held.columns is not None
    whole = held.rows[:, None] * held.columns
    torch.testing.assert_close(whole.sum(dim=1), found["layer|rows"])
    torch.testing.assert_close(whole.sum(dim=0), found["layer|columns"])


def test_ewc_is_the_divergence_near_the_start() -> None:
    """One weight moves a little: strength * F d^2 / 2 is KL(start || now), in nats a token."""
    model = Softmax(lora=False)
    parts = terms_of(model, dict(model.named_parameters()))
    known = {"layer.weight": model.known(ROWS)}
    x = torch.cat([model.table[ids[:-1]][labels[1:] != -100] for ids, labels in ROWS])
    before = model.layer(x).log_softmax(-1).detach()
    with torch.no_grad():
        model.layer.weight[2, 1] += 0.05
    now = model.layer(x).log_softmax(-1).detach()
    divergence = float((before.exp() * (before - now)).sum(-1).mean())
    assert add_gradients([Penalty(with_importances(parts, known), 1.0)])["penalty"] == pytest.approx(
        divergence, rel=0.05
    )


def test_rows_are_squared_one_by_one(base: Path) -> None:
    """Hooks on adapted layers against W's own gradient, on a LLaMA, from the same draws."""
    model = adapters.attach(load_folder(base, torch.float32), Adapter(r=4, targets=("q_proj", "down_proj")), 1, (7,))
    parts = terms_of(model, adapters.trained(model))
    random_ = np.random.default_rng(0)
    rows = [(ids, ids) for ids in (random_.integers(3, 300, n) for n in (9, 14, 5))]
    found = fisher(model, parts, rows, ALONE, seed=2)
    name = next(n for n in parts if n.endswith("1.mlp.down_proj"))
    weight = dict(model.named_modules())[name].base_layer.weight.requires_grad_(True)
    wanted, batch = torch.zeros_like(weight), torch.zeros_like(weight)
    for n, row in enumerate(rows):
        fisher(model, {}, [row], ALONE, seed=2)  # leaves nothing
        assert weight.grad is None
        _backward(model.eval(), *row, (2 << 20) + n)
        wanted += weight.grad.square()
        batch += weight.grad
        weight.grad = None
    scored = 8 + 13 + 4
    torch.testing.assert_close(found[f"{name}|rows"], wanted.sum(dim=1) / scored)
    torch.testing.assert_close(found[f"{name}|columns"], wanted.sum(dim=0) / scored)
    assert not torch.allclose(wanted, batch.square(), rtol=0.1)


def test_rank_one_importances_beside_the_whole_diagonal(base: Path) -> None:
    """What is kept is exact where squared changes are alike along rows or along columns of W, by its definition; how
    far it is off otherwise, on a LLaMA with random weights and changes of rank 4: 1 % in all, a few of a hundred in a
    layer. 0.9 of the diagonal's squared size is rank one there."""
    model = adapters.attach(load_folder(base, torch.float32), Adapter(r=4), 1)
    parts = terms_of(model, adapters.trained(model))
    random_ = np.random.default_rng(0)
    rows = [(ids, ids) for ids in (random_.integers(3, 300, 40) for _ in range(24))]
    held = with_importances(parts, fisher(model, parts, rows, ALONE, seed=2))
    weights = {name: dict(model.named_modules())[name].base_layer.weight.requires_grad_(True) for name in parts}
    whole = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    for n, row in enumerate(rows):
        _backward(model.eval(), *row, (2 << 20) + n)
        for name, weight in weights.items():
            whole[name] += weight.grad.square() / (24 * 39)
            weight.grad = None
    torch.manual_seed(6)
    kept, true = [], []
    for name, part in held.items():
        assert isinstance(part, LoraTerm)
        assert part.rows is not None
        assert part.columns is not None
        factored, exact = part.rows[:, None] * part.columns, whole[name]
        along_rows, along_columns = torch.rand(len(factored), 1), torch.rand(1, factored.shape[1])
        for alike in (along_rows, along_columns):
            torch.testing.assert_close((factored * alike).sum(), (exact * alike).sum(), rtol=1e-3, atol=0)
        assert 1 - float((factored - exact).square().sum() / exact.square().sum()) > 0.8
        change = (torch.randn(len(factored), 4) @ torch.randn(4, factored.shape[1])).square()
        kept.append(float((factored * change).sum()))
        true.append(float((exact * change).sum()))
    print([a / b for a, b in zip(kept, true, strict=True)], sum(kept) / sum(true))
    assert kept == pytest.approx(true, rel=0.1)
    assert sum(kept) == pytest.approx(sum(true), rel=0.03)


def test_ranks_share_the_rows() -> None:
    """Two of them end with what one has alone."""
    model = Softmax(lora=True)
    parts = terms_of(model, {n: p for n, p in model.named_parameters() if p.requires_grad})
    sent: list[torch.Tensor] = []

    def a_rank(rank: int, reduce: Any) -> dict[str, torch.Tensor]:
        fake = SimpleNamespace(num_processes=2, process_index=rank, is_main_process=rank == 0, reduce=reduce,
                               device=torch.device("cpu"), autocast=ALONE.autocast, mixed_precision="no")  # fmt: skip
        return fisher(model, parts, ROWS * 3, fake, seed=1)

    a_rank(1, lambda value, _: sent.append(value) or value)
    both = a_rank(0, lambda value, _: value + sent.pop(0))
    alone = fisher(model, parts, ROWS * 3, ALONE, seed=1)
    for name, value in alone.items():
        torch.testing.assert_close(both[name], value)


def test_virtual_tokens_in_front_are_no_labels() -> None:
    """Prompt tuning gives logits for them too."""
    rows, found = ROWS[0], []
    for virtual in (0, 3):
        model = Softmax(lora=False)
        stock = model.forward

        def forward(virtual: int = virtual, stock: Any = stock, **given: Any) -> Any:
            logits = stock(**given).logits
            return SimpleNamespace(logits=torch.cat([logits[:, :1].expand(-1, virtual, -1), logits], dim=1))

        model.forward = forward
        assert _backward(model, *rows, 1) == 3
        found.append(model.layer.weight.grad)
    torch.testing.assert_close(*found)


def penalties_of(run: Run) -> list[float]:
    return [m["penalty"] for m in metrics.read(run.root / "metrics.jsonl") if "penalty" in m]


def moved(run: Run) -> float:
    found = weights(run)
    return sum(float((found[n.replace("lora_A", "lora_B")] @ a).norm()) for n, a in found.items() if "lora_A" in n)


def test_l2_sp_in_a_run(finished: tuple[Config, Run], tmp_path: Path) -> None:
    """The loss stays the data's, the penalty has its own column, and the model stays nearer to its start."""
    run = branch(finished, tmp_path, "train.l2_sp=100")
    assert losses_of(run)[0] == losses_of(finished[1])[0]
    found = penalties_of(run)
    assert len(found) == 6
    assert found[0] == 0 < found[-1]
    assert moved(run) < 0.7 * moved(finished[1])


def test_ewc_on_rehearsal_rows(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"instruction": f"Say {n}.", "output": f"Number {n}."} for n in range(60)]
    (tmp_path / "general.json").write_text(json.dumps(rows))
    sources = f"data.sources=[{{path: families, rows: 60}}, {{path: {tmp_path / 'general.json'}, rehearsal: true}}]"
    config = make_config(tmp_path, base, sources, "data.rehearsal=0.2", "data.duplicates.near=0", "train.ewc=1",
                         "train.max_steps=3", "adapter.method=full", "train.lr=1e-3")  # fmt: skip
    run = run_to(config, "train", tmp_path)
    said = capsys.readouterr().out
    assert "Fisher information of 21 weights from" in said
    assert penalties_of(run)[:2] == [0, 0]  # the first rate of a warm-up is zero
    assert penalties_of(run)[2] > 0
    saved = load_file(run.root / FILE)
    assert saved.keys() == dict(load_folder(base, torch.float32).named_parameters()).keys()


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("train.ewc=1",), "EWC without general data"),
        (("train.ewc_data=x.txt",), "does nothing without train.ewc"),
        (("train.ewc=1", "train.ewc_data=x.txt", "eval.general=x.txt"), "one would guard what one measures"),
        (("train.l2_sp=-1",), "train.l2_sp"),
    ],
)
def test_what_cannot_be(base: Path, tmp_path: Path, overrides: tuple[str, ...], said: str) -> None:
    with pytest.raises(UserError, match=said):
        make_config(tmp_path, base, *overrides)


def test_ewc_with_rows_or_text_that_are_not_there(
    finished: tuple[Config, Run], encoder: Encoder, tmp_path: Path
) -> None:
    config, run = finished
    tokens = Tokens(run.folder("tokens") / "train.arrow")
    with pytest.raises(UserError, match="EWC without general data"):
        rehearsal_rows(config.data.sources, run.folder("dataset"), tokens)
    copy = tmp_path / "copy.jsonl"
    copy.write_text("\n".join(BUILT_IN.read_text().splitlines()[:2]))
    with pytest.raises(UserError, match="2 of its passages"):
        text_rows(str(copy), config.eval.general, encoder, 256)
    with pytest.raises(UserError, match="no such file") as caught:
        branch(finished, tmp_path / "run", "train.ewc=1", f"train.ewc_data={tmp_path / 'none.txt'}")
    assert caught.value.where == "train.ewc_data"
