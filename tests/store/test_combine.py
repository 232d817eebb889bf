"""Weighted sums of adapters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.cli.main import start
from pipeline.config.schema import Config
from pipeline.model.base import resolve
from pipeline.model.run_base import RunBase
from pipeline.run.errors import UserError
from pipeline.store.combine import combine
from pipeline.store.folder import Store
from pipeline.store.load import add_adapters, open_stored
from tests.helpers.store_files import IDS, update
from tests.helpers.stored_adapters import change_record, plain, put
from tests.helpers.tiny import make_config


def total(lora_store: Store, base: Path, shares: dict[str, float]) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for name, weight in shares.items():
        for layer, delta in update(lora_store.folder(name), base).items():
            found[layer] = found.get(layer, 0) + weight * delta
    return found


SHARES = {"one": 0.7, "two": -0.3, "three": 1.5}


def test_cat_is_exact(store_copy: Store, base: Path, config: Config) -> None:
    """Other ranks, other layers, another scale, a negative weight: what peft loads is the weighted sum."""
    combine(store_copy, "sum", list(SHARES.items()), "cat", 0, 0.2, False)
    wanted, found = total(store_copy, base, SHARES), update(store_copy.folder("sum"), base)
    assert wanted.keys() == found.keys()
    assert len(wanted) == 6  # q, v and o of two layers
    for layer, delta in wanted.items():
        assert torch.allclose(found[layer], delta, rtol=0, atol=1e-6)
    record = store_copy.record("sum")
    assert (record["rank"], record["combined"]) == (9, {"of": SHARES, "how": "cat", "kept": 1.0})
    model, _ = open_stored(RunBase.of(config, resolve(config.model)), store_copy, "sum")
    by_hand = plain(base)
    with torch.no_grad():
        for layer, delta in wanted.items():
            by_hand.get_submodule(layer.removeprefix("base_model.model.")).weight += delta.float()
        assert torch.allclose(model(input_ids=IDS).logits, by_hand(input_ids=IDS).logits, atol=1e-5)


def test_cat_where_the_first_is_an_rslora(store_copy: Store, base: Path) -> None:
    """peft's own add_weighted_adapter is off by sqrt(r) here."""
    combine(store_copy, "sum", [("three", 1.0), ("one", -2.0)], "cat", 0, 0.2, False)
    found = update(store_copy.folder("sum"), base)
    for layer, delta in total(store_copy, base, {"three": 1.0, "one": -2.0}).items():
        assert torch.allclose(found[layer], delta, rtol=0, atol=1e-6)


def test_svd_is_the_best_of_its_rank(store_copy: Store, base: Path) -> None:
    about = combine(store_copy, "sum", list(SHARES.items()), "svd", 3, 0.2, False)
    wanted, found = total(store_copy, base, SHARES), update(store_copy.folder("sum"), base)
    lost = whole = 0.0
    for layer, delta in wanted.items():
        left, values, right = torch.linalg.svd(delta)
        best = left[:, :3] * values[:3] @ right[:3]
        assert torch.allclose(found[layer], best, rtol=0, atol=1e-5)
        lost, whole = lost + float(values[3:].square().sum()), whole + float(values.square().sum())
    assert about["kept"] == pytest.approx(1 - lost / whole, abs=1e-4)
    assert 0.3 < about["kept"] < 1
    full = combine(store_copy, "whole", list(SHARES.items()), "svd", 9, 0.2, False)
    assert full["kept"] == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(("how", "theirs"), [("cat", "cat"), ("svd", "svd"), ("ties", "ties_svd")])
def test_as_peft_adds_them(store_copy: Store, base: Path, how: Any, theirs: str) -> None:
    shares = {"one": 0.7, "two": 0.4}
    combine(store_copy, "sum", list(shares.items()), how, 4, 0.5, False)
    model = add_adapters(plain(base), store_copy, list(shares))
    model.add_weighted_adapter(["a0", "a1"], list(shares.values()), "sum", theirs, svd_rank=4, density=0.5)
    for layer, found in update(store_copy.folder("sum"), base).items():
        wanted = model.get_submodule(layer).get_delta_weight("sum")
        assert torch.allclose(found.float(), wanted, rtol=0, atol=1e-5), layer


@pytest.mark.parametrize("how", ["cat", "svd", "ties", "dare"])
def test_a_weight_of_zero_is_no_part(store_copy: Store, base: Path, how: Any) -> None:
    """Nor has it a vote on signs, or a say in the rank."""
    about = combine(store_copy, "sum", [("two", 1.0), ("one", 0.0)], how, 0, 1.0, False)
    assert about["of"] == {"two": 1.0}
    assert store_copy.record("sum")["rank"] == 3
    wanted, found = update(store_copy.folder("two"), base), update(store_copy.folder("sum"), base)
    assert wanted.keys() == found.keys()
    assert all(torch.allclose(found[layer], delta, rtol=0, atol=1e-5) for layer, delta in wanted.items())


def test_ties_with_a_negative_weight(store_copy: Store, base: Path) -> None:
    """The turned update votes: where the two agree, the mean of both; elsewhere the larger one alone."""
    combine(store_copy, "sum", [("one", 2.0), ("three", -1.5)], "ties", 32, 1.0, False)
    one, three = (update(store_copy.folder(name), base) for name in ("one", "three"))
    found = update(store_copy.folder("sum"), base)
    for layer, delta in found.items():
        mine, theirs = one[layer], -three[layer]
        alone = torch.where(mine.abs() > theirs.abs(), 2 * mine, 1.5 * theirs)
        wanted = torch.where(mine.sign() == theirs.sign(), (2 * mine + 1.5 * theirs) / 2, alone)
        assert torch.allclose(delta, wanted, rtol=0, atol=1e-4)


def test_dare_keeps_the_mean_and_repeats_itself(store_copy: Store, base: Path) -> None:
    combine(store_copy, "a", [("one", 1.0)], "dare", 32, 0.5, False)
    combine(store_copy, "b", [("one", 1.0)], "dare", 32, 0.5, False)
    a, b, whole = (update(store_copy.folder(name), base) for name in ("a", "b", "one"))
    for layer, delta in whole.items():
        assert torch.equal(a[layer], b[layer])
        dropped = a[layer].abs() < 1e-5
        assert 0.4 < dropped.double().mean() < 0.6
        assert torch.allclose(a[layer][~dropped], 2 * delta[~dropped], atol=1e-4)


def test_what_cannot_be_added_up(store_copy: Store, config: Config, base: Path, tmp_path: Path) -> None:
    put(store_copy, "dora", config, 4, use_dora=True)
    put(store_copy, "tokens", config, 5, trainable_token_indices={"embed_tokens": [5]})
    put(store_copy, "other", make_config(tmp_path, base, "prompt.template=alpaca"), 6)
    put(store_copy, "bos", make_config(tmp_path, base, "prompt.bos=<s>"), 7)
    put(store_copy, "joint", make_config(tmp_path, base, "prompt.join=joint"), 8)
    change_record(store_copy, "three", base={"name": "other", "hash": "0" * 64})
    for name, what in (
        ("bos", r"prompt\.bos"),
        ("joint", r"prompt\.join"),
        ("dora", "dora"),
        ("tokens", "tokens"),
        ("other", "templates"),
        ("three", "bases"),
        ("four", "four"),
    ):
        with pytest.raises(UserError, match=what):
            combine(store_copy, "sum", [("one", 1.0), (name, 1.0)], "cat", 0, 0.2, False)
    with pytest.raises(UserError, match="two"):
        combine(store_copy, "two", [("one", 1.0)], "cat", 0, 0.2, False)
    with pytest.raises(UserError, match="one=0, two=0"):
        combine(store_copy, "sum", [("one", 0.0), ("two", 0.0)], "cat", 0, 0.2, False)
    with pytest.raises(UserError, match="one=1, by ties"):
        combine(store_copy, "sum", [("one", 1.0)], "ties", 0, 1e-9, False)
    assert "sum" not in store_copy.names()


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["sum"], "no adapters to combine"),
        (["sum", "one"], "'one' has no weight"),
        (["sum", "one=x"], "one='x' is no number"),
        (["sum", "one=nan"], "is no number"),
        (["sum", "one=1", "one=2"], "twice"),
        (["sum", "one=1", "--how", "mean"], "HOW='mean'"),
        (["sum", "one=1", "--rank", "-1"], "RANK='-1' is no number"),
        (["sum", "one=1", "--rank", "1.5"], "RANK is a whole number"),
        (["sum", "one=1", "--density", "0"], "DENSITY a share above 0"),
        (["sum", "../x=1"], "which an adapter's name cannot"),
    ],
)
def test_words_of_combine(
    lora_store: Store, words: list[str], what: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ADAPTERS", str(lora_store.root))
    assert start(["adapters", "combine", *words]) == 2
    assert what in " ".join(capsys.readouterr().err.split())
    assert lora_store.names() == ["one", "three", "two"]
