"""The datasheet of generated rows: `generated/README.md`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline import __version__
from pipeline.dataset import generated
from pipeline.run.markdown import code


def readme(name: str, report: Mapping[str, Any]) -> str:
    """Markdown. name: of the run. Deterministic: no time but those of the replies, no machine."""
    rejected = ", ".join(f"{code(rule)} {count:,}" for rule, count in report["rejected"].items()) or "none"
    blocks = [
        f"# Generated rows: {name}",
        f"{report['rows']:,} rows in Alpaca form (`rows.jsonl`), kept of {report['drafts']:,} drafts. {_ended(report)}",
        "A model wrote these rows, and no person has checked them. Its mistakes, opinions and habits are in them; look "
        "at samples in `report.html` before you train on them.",
        "## Provenance",
        "\n".join(generated.lines(report)),
        "Whether you may train on replies and pass them on is what the teacher's terms say; Suri does not check it.",
        "## Each row",
        "`generated` holds method, teacher, model as its server named it, what the row was made from, hashes of the "
        "requests, the time of the last reply, tokens and cost. A reply's tokens and cost are divided equally over the "
        "kept rows that were made of it.",
        "## Rejected",
        f"By rule: {rejected}. `rejected.jsonl` has each draft with rule and reason, and the reply that could not be "
        "used.",
        "## To build it again",
        f"Suri {__version__}. The same journal and config give the same bytes, without a request:\n\n"
        f"```\nmake generate CONFIG=runs/{name}/config.yaml ARGS=\"synthesis.replay=true\"\n```",
    ]  # fmt: skip
    return "\n\n".join(blocks) + "\n"


def _ended(report: Mapping[str, Any]) -> str:
    """Why there are not more rows."""
    wanted = f"{report['wanted']:,} were wanted"
    return {
        "rows": "As many as were wanted.", "budget": f"{wanted}; the budget was used up before.",
        "journal": f"{wanted}; the journal holds no further reply.",
        "yield": f"{wanted}; the last replies gave no row any more.",
    }.get(report["ended"], f"{wanted}; all items were used.")  # fmt: skip
