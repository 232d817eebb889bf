"""A Ray cluster of several nodes, of which one is killed half-way and another joins late: the bytes are those of the
local engine. The nodes are separate raylets on this machine."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from pipeline.dataset import ray_engine, stage
from pipeline.dataset.chunk import ChunkPipeline
from pipeline.dataset.ray_engine import RayEngine
from pipeline.run.errors import UserError
from pipeline.run.folder import Run
from tests.helpers.data_stage import config_of, story
from tests.helpers.object_store import free_port

pytestmark = pytest.mark.ray
ray = pytest.importorskip("ray", reason="needs the extra `ray`, which is not here")

ROOT = Path(__file__).parents[2]
ROWS, KILLED = 12_000, 3  # the chunk after which a node is killed and another joins


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A head without CPUs and two worker nodes with one CPU each."""
    from ray.cluster_utils import Cluster

    if ray.is_initialized():
        ray.shutdown()
    there = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    there.add_node(num_cpus=1)
    there.add_node(num_cpus=1)
    monkeypatch.setenv("RAY_ADDRESS", there.address)
    yield there
    ray.shutdown()
    with contextlib.suppress(Exception):  # of nodes that were killed
        there.shutdown()


def results(run: Run) -> dict[str, bytes]:
    files = {path.name: path.read_bytes() for path in run.folder("dataset").iterdir() if path.name != "README.md"}
    files.pop("manifest.json")
    return files


class Slow:
    """A chunk's work, slowed down so that tasks run and wait while the cluster changes; logs the node that did it.

    Once the file `late` is there, nodes wait until the one whose id it holds has done something; it is empty until that
    node has joined. Otherwise the survivor could do all that is left while Ray still looks for the killed one.
    """

    def __init__(self, inner: ChunkPipeline, log: Path) -> None:
        self.inner, self.log, self.late, self.whole = inner, log, log.with_name("late"), inner.whole

    def __call__(self, chunk: Any) -> Any:
        result = self.inner(chunk)
        time.sleep(0.5)
        mine = ray.get_runtime_context().get_node_id()
        for _ in range(600):
            if not self.late.exists() or self.late.read_text() in (mine, *self.log.read_text().split()):
                break
            time.sleep(0.1)
        with open(self.log, "a") as file:
            file.write(f"{mine}\n")
        return result


def test_a_node_is_killed_and_another_joins(tmp_path: Path, cluster: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "a.jsonl"
    source.write_text("".join(json.dumps(story(i % (ROWS - 300), 12)) + "\n" for i in range(ROWS)))
    local, remote, log = Run(tmp_path / "local"), Run(tmp_path / "ray"), tmp_path / "log"
    stage.build(config_of(source, val=0.1), local)

    plain = RayEngine.map
    nodes: list[str] = []

    def changing(self: RayEngine, function: Any, items: Any) -> Iterator[Any]:
        for number, result in enumerate(plain(self, Slow(function, log), items)):
            yield result
            if number == KILLED:
                busy = log.read_text().split()[-1]  # the one that did the last chunk: its results are lost with it
                victim = next(node for node in cluster.worker_nodes if node.node_id == busy)
                nodes.append(victim.node_id)
                (tmp_path / "late").touch()
                kill(victim)
                nodes.append(cluster.add_node(num_cpus=1).node_id)
                (tmp_path / "new").write_text(nodes[-1])
                os.replace(tmp_path / "new", tmp_path / "late")

    monkeypatch.setattr(RayEngine, "map", changing)
    stage.build(config_of(source, val=0.1, engine="ray"), remote)
    assert results(remote) == results(local)
    worked = log.read_text().split()
    killed, joined = nodes
    assert killed in worked
    assert joined in worked
    assert len(worked) >= ROWS // 1000  # some chunks were done twice


def kill(node: Any) -> None:
    """kill -9 of all processes of a node, as if its machine had lost its power."""
    tops = [psutil.Process(info[0].process.pid) for info in node.all_processes.values() if info]
    for process in [child for top in tops for child in (*top.children(recursive=True), top)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


DRIVER = """
from pipeline.command import guarded
from pipeline.dataset.ray_engine import RayEngine
from tests.dataset.test_ray_cluster import Sleep

def main():
    for result in RayEngine().map(Sleep(), range(200)):
        print(result, flush=True)

raise SystemExit(guarded(main))
"""


def test_a_lost_head_is_one_message(cluster: Any) -> None:
    # In a separate process: Ray in this one would not work after the loss.
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    )
    try:
        assert driver.stdout is not None
        assert driver.stdout.readline() == "0\n"
        kill(cluster.head_node)
        _, errors = driver.communicate(timeout=90)
    finally:
        driver.kill()
    assert driver.returncode == 2
    assert "the head of the Ray cluster at" in errors
    assert "Traceback" not in errors


def test_an_address_where_no_cluster_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{free_port()}")
    with pytest.raises(UserError, match=r"no Ray cluster answers at 127\.0\.0\.1:") as caught:
        RayEngine()
    assert "RAY_ADDRESS" in caught.value.fix


@pytest.mark.parametrize("address", ["[::1]:{}", ":{}", "localhost:{}"])
def test_addresses_that_ray_would_try_for_minutes(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray is not asked: an IPv6 address, one without a host, and a name."""
    monkeypatch.setenv("RAY_ADDRESS", address.format(free_port()))
    with pytest.raises(UserError, match="no Ray cluster answers at"):
        ray_engine._start(None)


def test_a_cluster_without_workers_is_one_message(cluster: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_engine, "PATIENCE", 5.0)
    engine = RayEngine()
    results = engine.map(Sleep(), range(100))
    assert next(results) == 0
    for node in list(cluster.worker_nodes):
        kill(node)
    with pytest.raises(UserError, match="no CPU for 5 s: its worker nodes are lost"):
        list(results)


class Sleep:
    def __call__(self, item: int) -> int:
        time.sleep(0.2)
        return item
