"""Measures the data stage on many rows: `python -m scripts.benchmarks.bench_rows alpaca_data.json [ROWS] [CASE ...]`.

Rows are those of Alpaca and copies with every fourth word changed, 1,000,000 by default. Cases: local (a local file),
s3 (the same as an object; AWS_ENDPOINT_URL names the store and BUCKET a bucket), ray (RAY_ADDRESS, or a cluster on this
machine). Each runs as a separate command. Memory is the largest sum over its processes, with and without the pages of
mapped files, which the system drops when memory is short; disk is the largest size of the run folder.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import yaml

from pipeline.command import guarded
from pipeline.run.errors import UserError
from pipeline.run.files import folder_size, readable_size
from pipeline.run.object_store import connected, errors
from scripts.benchmarks.bench_data import _children, write_rows

CASES = ("local", "s3", "ray")


@dataclass
class Peak:
    """The largest sizes so far, in bytes. memory: of all processes; own: without mapped files; main: of the first."""

    memory: int = 0
    own: int = 0
    main: int = 0
    disk: int = 0

    def look(self, process: psutil.Process, folder: Path) -> None:
        pairs = [_memory(p) for p in (process, *_children(process))]
        self.memory = max(self.memory, sum(rss for rss, _ in pairs))
        self.own = max(self.own, sum(own for _, own in pairs))
        self.main = max(self.main, pairs[0][1])
        try:
            self.disk = max(self.disk, folder_size(folder))
        except FileNotFoundError:  # renamed in between
            return


def _memory(process: psutil.Process) -> tuple[int, int]:
    try:
        info = process.memory_info()
    except psutil.Error:
        return 0, 0
    return info.rss, info.rss - getattr(info, "shared", 0)


def measure(case: str, rows: Path, work: Path) -> str:
    """One line of the table."""
    path = str(rows)
    if case == "s3":
        path = f"s3://{os.environ.get('BUCKET', 'bucket')}/{rows.name}"
        with errors(path), open(rows, "rb") as file, connected().open_output_stream(path[5:], None) as stream:
            while block := file.read(1 << 23):
                stream.write(block)
    data = {"sources": [{"path": path, "language": "en"}], "val": 0.02, "engine": "ray" if case == "ray" else "local"}
    config = work / f"{case}.yaml"
    config.write_text(yaml.safe_dump({"name": case, "data": data}))
    words = [sys.executable, "-m", "scripts.benchmarks.bench_data", "--stage", str(config)]
    started, peak, runs = time.perf_counter(), Peak(), work / "runs"
    process = psutil.Popen(words, env={**os.environ, "RUNS": str(runs), "SURI_CACHE": str(work / "cache")})
    while process.poll() is None:
        peak.look(process, runs / case)
        time.sleep(0.2)
    if process.returncode:
        raise UserError(f"the stage ended with {process.returncode}", str(config), "see above")
    seconds = time.perf_counter() - started
    result = folder_size(runs / case)
    sizes = " | ".join(readable_size(n) for n in (peak.memory, peak.own, peak.main, peak.disk, result))
    return f"| {case} | {seconds:.1f} s | {sizes} |"


def main() -> None:
    """Raises:
    UserError: a word of the command line is wrong, or a stage failed.
    """
    if len(sys.argv) < 2 or not Path(sys.argv[1]).is_file():
        raise UserError("name alpaca_data.json", "FILE", "see docs/benchmarks.md")
    words = sys.argv[2:]
    count = int(words.pop(0)) if words and words[0].isdigit() else 1_000_000
    if unknown := [word for word in words if word not in CASES]:
        raise UserError(f"no such case: {unknown[0]}", "CASE", f"there are {', '.join(CASES)}")
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder, f"rows-{count}.jsonl")
        write_rows(Path(sys.argv[1]), rows, count)
        lines = []
        for case in words or CASES:
            lines.append(measure(case, rows, Path(folder)))
            print(lines[-1], flush=True)
    print(f"\n{count:,} rows | time | memory | without mapped files | of it the first process | disk | result")
    print("\n".join(lines))


if __name__ == "__main__":
    raise SystemExit(guarded(main))
