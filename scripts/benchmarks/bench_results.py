"""The results of one call of `make bench`, and what docs and READMEs quote of them.

    python -m scripts.benchmarks.bench_results           writes what docs/bench.json says into the pages
    python -m scripts.benchmarks.bench_results --check   exits with 2 if a page says something else

Pages mark the place: `<!-- bench: NAME -->...<!-- /bench -->`. A number appears there only if this file writes it.

    {"machine", "versions": {library: version}, "commit", "date", "command", "rows", "products" (FLOP/s),
     "cases": [{"name", "tokens_per_second" (median), "first_quartile", "third_quartile", "mean" (all tokens by all
                seconds), "milliseconds", "gibibytes", "is_steady", "warm_up_steps", "steps", "share_of_products",
                "row_losses", "row_losses_if_leaking" (packed peers)},
               {"name", "failed": why}]}
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.command import guarded
from pipeline.run.errors import UserError
from pipeline.run.files import read_json, write_text
from scripts.benchmarks.bench_cases import CASES, LIGER, LIGER_PACKED, OURS

FILE = Path("docs/bench.json")
PAGES = {
    Path("docs/benchmarks.md"): ("table",),
    Path("README.md"): ("speed",),
    Path("docs/README.ko.md"): ("speed",),
}
HEADER = ("case", "tok/s", "quartiles", "mean", "ms", "GiB", "of products", "row losses")
WIDTHS = (31, 9, 20, 9, 8, 6, 11, 26)
# Largest difference of a row's mean loss that rounding explains, as a share of the loss, by the type of the base; the
# check before each run allows the same (`pipeline.training.self_check.ROUNDING`). Cases further away are marked.
ROUNDING = {"fp8": 3e-2}
BF16_ROUNDING = 1e-2
THEN = ", then "  # between the commands of several calls


def cells_of(case: dict[str, Any], reference: list[float] | None) -> tuple[str, ...]:
    """A case as cells of the table. reference: losses of the same rows by this project's bf16 case."""
    if "failed" in case:
        return case["name"], case["failed"]
    rate = f"{'' if case['is_steady'] else '~'}{case['tokens_per_second']:,.0f}"
    quartiles = f"{case['first_quartile']:,.0f} to {case['third_quartile']:,.0f}"
    memory = "" if case["gibibytes"] is None else f"{case['gibibytes']:.1f}"
    return (
        case["name"], rate, quartiles, f"{case['mean']:,.0f}", f"{case['milliseconds']:.1f}", memory,
        f"{case['share_of_products']:.0%}", _agreement(case, reference),
    )  # fmt: skip


def _agreement(case: dict[str, Any], reference: list[float] | None) -> str:
    """How far the losses of a few rows are from the reference, and how far they would be if rows saw each other."""
    if reference is None or case["row_losses"] is reference:
        return ""
    apart, leaking = _largest_difference(case["row_losses"], reference), case.get("row_losses_if_leaking")
    allowed = ROUNDING.get(CASES[case["name"]].quantize, BF16_ROUNDING) * sum(reference) / len(reference)
    if not leaking:
        return f"{apart:.4f}{'' if apart <= allowed else ' !'}"
    fault = _largest_difference(leaking, reference)
    return f"{apart:.4f}{'' if apart <= min(allowed, fault / 4) else ' !'} (leaking: {fault:.4f})"


def _largest_difference(a: list[float], b: list[float]) -> float:
    return max((abs(x - y) for x, y in zip(a, b, strict=True)), default=0.0)


def line_of(case: dict[str, Any], reference: list[float] | None = None) -> str:
    cells = cells_of(case, reference)
    padded = (f"{cells[0]:{WIDTHS[0]}}", *(f"{c:>{w}}" for c, w in zip(cells[1:], WIDTHS[1:], strict=False)))
    return "| " + " | ".join((*padded, *[""] * (len(WIDTHS) - len(padded)))) + " |"


def reference_losses(results: dict[str, Any], name: str) -> list[float] | None:
    """Losses of the first of this project's cases that computes with the same weights, fp8 apart."""
    for case in results["cases"]:
        ours = CASES[case["name"]]
        same = ours.weights_key == CASES[name].weights_key
        if same and ours.how == OURS and ours.quantize != "fp8" and "failed" not in case:
            losses: list[float] = case["row_losses"]
            return losses
    return None


def table(results: dict[str, Any]) -> str:
    """The Markdown table of all cases, with what it was measured on."""
    heads = " | ".join(
        [f"{HEADER[0]:{WIDTHS[0]}}", *(f"{h:>{w}}" for h, w in zip(HEADER[1:], WIDTHS[1:], strict=True))]
    )
    rule = "|".join(["-" * (WIDTHS[0] + 2), *("-" * (w + 1) + ":" for w in WIDTHS[1:])])
    lines = [line_of(case, reference_losses(results, case["name"])) for case in results["cases"]]
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    made = f"{results['machine']}, {versions}, commit {results['commit']}, {results['date']}"
    below = f"{made}; large bf16 products {results['products'] / 1e12:,.1f} TFLOP/s; {results['rows']:,} rows."
    commands = [f"`{command}`" for command in results["command"].split(THEN)]
    return "\n".join([f"| {heads} |", f"|{rule}|", *lines, "", below, f"Command: {THEN.join(commands)}"])


def speed(results: dict[str, Any]) -> tuple[float, str] | None:
    """How many times as fast as the fastest case of Liger Kernel this project trains 7B in bf16, and that case's name;
    None if either was not measured."""
    peers = {LIGER: 0.0, LIGER_PACKED: 0.0}
    ours = 0.0
    for case in results["cases"]:
        if "failed" in case:
            continue
        if case["name"] == "shared":
            ours = case["tokens_per_second"]
        if CASES[case["name"]].how in peers and CASES[case["name"]].shape == "7b":
            peers[CASES[case["name"]].how] = case["tokens_per_second"]
    best = max(peers, key=peers.__getitem__)
    return (ours / peers[best], best) if ours and peers[best] else None


def english(results: dict[str, Any]) -> str | None:
    if (found := speed(results)) is None:
        return None
    how = "on packed rows " if found[1] == LIGER_PACKED else ""
    times = _times_unsloth(results)
    beside = f"and {times:.1f} times that of Unsloth " if times else ""
    return (
        f"{found[0]:.1f} times the speed of transformers + peft with Liger Kernel "
        f"{how}{beside}(LoRA on a 7B model in bf16, one {_card(results)})"
    )


def korean(results: dict[str, Any]) -> str | None:
    if (found := speed(results)) is None:
        return None
    how = "패딩 없이 이어 붙인 행을 쓰는 " if found[1] == LIGER_PACKED else ""
    times = _times_unsloth(results)
    beside = f", Unsloth보다 {times:.1f}배" if times else ""
    return (
        f"{how}transformers + peft에 Liger Kernel을 더한 것보다 "
        f"{found[0]:.1f}배{beside} 빠릅니다(7B 모델 LoRA, bf16, {_card(results)} 한 장)"
    )


def _times_unsloth(results: dict[str, Any]) -> float | None:
    """How many times as fast as Unsloth this project trains 7B in bf16; None if either was not measured."""
    rates = {case["name"]: case.get("tokens_per_second") for case in results["cases"]}
    ours, unsloth = rates.get("shared"), rates.get("Unsloth, grouped 64")
    return ours / unsloth if ours and unsloth else None


def _card(results: dict[str, Any]) -> str:
    return str(results["machine"]).removeprefix("NVIDIA ")


def texts(page: Path) -> dict[str, Callable[[dict[str, Any]], str | None]]:
    """What a page can quote, by the name in its markers."""
    sentence = korean if page.name.endswith(".ko.md") else english
    return {"table": lambda results: f"\n{table(results)}\n", "speed": sentence}


def with_results(text: str, page: Path, results: dict[str, Any]) -> str:
    """The page's text with what lies between its markers written anew; unchanged where the results lack a number.

    Raises:
        UserError: the page lacks a marker.
    """
    for name in PAGES[page]:
        place = re.compile(rf"(<!-- bench: {name} -->).*?(<!-- /bench -->)", re.DOTALL)
        if not place.search(text):
            raise UserError(
                f"the page has no place for {name!r}", str(page), f"add <!-- bench: {name} --><!-- /bench -->"
            )
        written = texts(page)[name](results)
        if written is not None:
            text = place.sub(lambda found, new=written: f"{found[1]}{new}{found[2]}", text)  # type: ignore[misc]
    return text


def main() -> None:
    if not FILE.is_file():
        fix = "run `make bench` on a GPU: it writes runs/bench.json; copy that to docs/"
        raise UserError("no results of a benchmark", str(FILE), fix)
    results = read_json(FILE)
    for page in PAGES:
        before = page.read_text(encoding="utf-8")
        after = with_results(before, page, results)
        if after == before:
            continue
        if "--check" in sys.argv[1:]:
            fix = "run `python -m scripts.benchmarks.bench_results`"
            raise UserError(f"the numbers are not those of {FILE}", str(page), fix)
        write_text(page, after)
        print(f"{page}: written from {FILE}")


if __name__ == "__main__":
    raise SystemExit(guarded(main))
