"""By hand, not by pytest: kill -9 at random instants of `make export`, each followed by `make export`; the end must be
bit-identical to an undisturbed run.

    .venv/bin/python -m tests.helpers.kill_export --kills 20
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
# The demo, small: every stage does real work and the whole takes about a minute.
SMALL = (
    "data.sources.0.rows=100 data.sources.1.limit=10 data.sources.2.limit=2 data.val=8 train.batch_size=8 "
    "train.max_steps=6 train.save_every=1 train.eval_every=3 train.eval_rows=2 eval.rows=2 eval.max_new_tokens=4 "
    "eval.prompts=[Hello.] adapter.dropout=0.1 export.min_eos=0"
)


def make(runs: Path) -> subprocess.Popen[bytes]:
    """`make export` in a process group of its own."""
    return subprocess.Popen(
        ["make", "export", f"ARGS={SMALL}"], cwd=ROOT, env={**os.environ, "RUNS": str(runs)},
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip


def finish(runs: Path) -> float:
    """`make export` to its end; seconds."""
    started = time.time()
    process = make(runs)
    _, said = process.communicate()
    if process.returncode:
        sys.exit(f"make export failed:\n{said.decode()[-2000:]}")
    return time.time() - started


def digests(runs: Path) -> dict[str, str]:
    """sha256 of the weights of checkpoints, adapter and export."""
    return {
        str(p.relative_to(runs)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted((runs / "demo").rglob("*.safetensors"))
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    args = parser.parse_args()
    instants = random.Random(args.seed)
    folder = Path(tempfile.mkdtemp(prefix="suri-kill-"))
    seconds = finish(folder / "whole")
    wanted = digests(folder / "whole")
    print(f"undisturbed: {seconds:.0f} s, {len(wanted)} files of weights; seed {args.seed}", flush=True)
    kills, runs = 0, folder / "killed-0"
    while kills < args.kills:
        process = make(runs)
        time.sleep(instants.uniform(0.2, seconds))
        hit = process.poll() is None  # a run that had ended by itself is no kill and does not count
        if hit:
            os.killpg(process.pid, signal.SIGKILL)
            kills += 1
        process.wait()
        assert process.stderr is not None
        process.stderr.close()
        done = sorted(p.parent.name for p in runs.glob("demo/*/manifest.json"))
        print(f"kill {kills}: whole stages then: {', '.join(done) or 'none'}" if hit else "ended by itself", flush=True)
        # Up to four kills go into one run folder, so that later ones fall into later stages.
        if not hit or kills % 4 == 0 or kills == args.kills:
            finish(runs)
            if digests(runs) != wanted:
                sys.exit(f"  went on to the end: DIFFERENT, see {runs}")
            print("  went on to the end: bit-identical", flush=True)
            runs = folder / f"killed-{kills}-{time.time_ns()}"
    shutil.rmtree(folder)
    print(f"{args.kills} kills: all ends bit-identical")


if __name__ == "__main__":
    main()
