"""Ray gives what the local engine gives, to the byte. Starts a cluster on this machine."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.dataset import stage
from pipeline.dataset.engine import engine
from pipeline.dataset.ray_engine import RayEngine
from pipeline.dataset.select import novelty
from pipeline.run.errors import UserError
from pipeline.run.folder import Run
from tests.helpers.data_stage import Shift, config_of, story

pytestmark = pytest.mark.ray
ray = pytest.importorskip("ray", reason="needs the extra `ray`, which is not here")


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False)
    yield
    ray.shutdown()


def test_the_same_bytes_as_local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[int] = []
    spread = RayEngine.spread

    def counted(self: RayEngine, function: Any, items: Iterable[Any]) -> Iterator[Any]:
        items = list(items)
        sent.append(len(items))
        return spread(self, function, items)

    monkeypatch.setattr(RayEngine, "spread", counted)
    monkeypatch.setattr(novelty, "CHUNK", 1 << 11)  # so that even these few rows are worth sending out
    rng = random.Random(3)
    rows = [story(i, 12) for i in range(1500)]
    for _ in range(300):
        row = dict(rng.choice(rows))
        row["output"] += rng.choice([" more", "", " <noinput>", " and 2 + 2 = 5"])
        row["instruction"] = row["instruction"].replace("Tell", rng.choice(["Tell", "tell", "Write"]))
        rows.append(row)
    rows += [{"instruction": "안녕이라고 말해 줘", "input": "없음", "output": f"안녕 {i}"} for i in range(20)]
    rows += [{"instruction": "broken"}]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    (tmp_path / "quiz.txt").write_text(rows[5]["instruction"] + " " + rows[5]["output"] + "?")
    results = []
    for name in ("local", "ray"):
        run = Run(tmp_path / name)
        benchmarks = [{"path": str(tmp_path / "quiz.txt")}]
        config = config_of(
            tmp_path / "a.json", engine=name, benchmarks=benchmarks, val=0.1, duplicates={"novelty": 0.9}
        )
        stage.build(config, run)
        results.append({path.name: path.read_bytes() for path in run.folder("dataset").glob("*.json*")})
        results[-1].pop("manifest.json")
        rules = {r["rule"] for r in json.loads(results[-1]["report.json"])["rules"]}
        assert {"duplicate", "near-duplicate", "not-novel", "no-input-spelling", "contaminated"} <= rules
        assert stage.key(config, run) == stage.key(config_of(
            tmp_path / "a.json", benchmarks=benchmarks, val=0.1, duplicates={"novelty": 0.9}
        ), run)  # fmt: skip
    assert results[0] == results[1]
    assert set(sent) == {2}  # the search for neighbours went to the cluster, a slice a core


def test_spread_and_errors() -> None:
    found = engine("ray")
    assert found.slices == 2
    assert [value for value, _ in found.spread(Shift(1), range(5))] == [1, 2, 3, 4, 5]
    with pytest.raises(UserError) as caught:
        list(found.map(Shift(1), [1, 99, 2]))
    assert (caught.value.what, caught.value.fix) == ("no 99", "leave it out")
