"""The fenced blocks of a tutorial, and a folder in which they run in order, as a reader would type them.

`python -m tests.helpers.tutorial docs/tutorial.md FOLDER` prints what each block prints today, to paste from.

    ```yaml or ```python    the first line is a comment with a path: the block is written there
    ```sh                   run by bash, which stops at the first command that fails
    ```sh interrupt         the same; Ctrl-C once the training has made a step
    ```text                 lines of the output of the block before; `...`: lines, or the rest of one, are left out
    ```text example         output that differs between machines: not compared
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path

from tests.helpers.checkout import clean_environment, copy_of_checkout

FENCE = re.compile(r"^```([^\n`]*)\n(.*?)^```$", re.M | re.S)
PATH = re.compile(r"# (\S+)$", re.M)
NUMBER = re.compile(r"\d+(?:[.,:]\d+)*(?:e-?\d+)?")
INTERRUPTED = (2, 130, -signal.SIGINT)  # as make, a command, or bash itself ends
PATIENCE = 1200  # seconds for one block on a busy machine


@dataclass(frozen=True)
class Block:
    """info: the words behind the fence, such as `sh interrupt`. line: of the file, for messages."""

    info: str
    body: str
    line: int

    @property
    def path(self) -> str:
        """The file that the block is written to; empty if its first line names none."""
        name = PATH.match(self.body)
        return name[1] if name and self.info in ("yaml", "python") else ""


def blocks(text: str) -> list[Block]:
    """All fenced blocks of a Markdown text."""
    return [Block(m[1].strip(), m[2], text.count("\n", 0, m.start()) + 1) for m in FENCE.finditer(text)]


def shape(line: str) -> str:
    """A line with its numbers and white space reduced, since they differ from machine to machine."""
    return " ".join(NUMBER.sub("#", line).split())


@dataclass
class Reader:
    """Does what a tutorial says, in `folder`.

    Attributes:
        log: the output of each block that ran. metrics: a file that has a loss in it once training has made a step.
    """

    folder: Path
    metrics: Path
    log: list[str] = field(default_factory=list)

    def follow(self, block: Block) -> None:
        """Runs, writes or compares one block; fails with its line where it does not hold."""
        if block.path:
            file = self.folder / block.path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(block.body, encoding="utf-8")
        elif block.info in ("sh", "sh interrupt"):
            self.log.append(self._run(block))
        elif block.info == "text":
            self._compare(block)
        else:
            assert block.info == "text example", f"line {block.line}: what is a block {block.info!r}?"

    def _run(self, block: Block) -> str:
        interrupt = block.info.endswith("interrupt")
        command = ["bash", "-e", "-u", "-o", "pipefail", "-c", block.body]
        output = self.folder / "output.log"
        with output.open("w") as file:
            process = subprocess.Popen(command, cwd=self.folder, env=clean_environment(), stdin=subprocess.DEVNULL,
                                       stdout=file, stderr=subprocess.STDOUT, start_new_session=True)  # fmt: skip
        try:
            if interrupt:
                self._wait_for_a_step(process)
                os.killpg(process.pid, signal.SIGINT)  # a terminal's Ctrl-C reaches make and its command
            code = process.wait(PATIENCE)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
        text = output.read_text(encoding="utf-8").replace("\r", "\n")
        assert code in (INTERRUPTED if interrupt else (0,)), f"line {block.line}: exit code {code}\n{text[-3000:]}"
        return text

    def _wait_for_a_step(self, process: subprocess.Popen[bytes]) -> None:
        end = time.monotonic() + PATIENCE
        while not (self.metrics.exists() and '"loss"' in self.metrics.read_text(encoding="utf-8")):
            assert process.poll() is None, "the training ended before it could be interrupted"
            assert time.monotonic() < end, "the training has made no step"
            time.sleep(0.1)

    def _compare(self, block: Block) -> None:
        printed = {shape(line) for line in self.log[-1].splitlines()}
        for line in block.body.splitlines():
            expected = shape(line)
            if expected in printed or expected in ("", "..."):
                continue
            start = expected.removesuffix("...")
            if start == expected or not any(line.startswith(start) for line in printed):
                near = get_close_matches(expected, printed, 3, 0.4)
                raise AssertionError(f"line {block.line}: not in the output: {line!r}\nnearest: {near}")


def main(tutorial: Path, folder: Path) -> None:
    """Follows a tutorial without comparing, and prints the output of each block, to paste from."""
    reader = Reader(copy_of_checkout(folder), folder / "runs" / "shop" / "metrics.jsonl")
    for block in blocks(tutorial.read_text(encoding="utf-8")):
        if not block.info.startswith("text"):
            started = time.monotonic()
            reader.follow(block)
            print(f"--- line {block.line}, {time.monotonic() - started:.0f} s\n{block.body}", flush=True)
            print("" if block.path else f"{reader.log[-1]}", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
