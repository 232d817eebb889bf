"""The output of `make adapters`: the store as a table, and one record in full. No torch, no network."""

from __future__ import annotations

from typing import Any

import yaml

from pipeline.run.errors import UserError
from pipeline.run.files import readable_size
from pipeline.run.next_command import next_command
from pipeline.run.terminal import quoted
from pipeline.run.width import WIDTH, aligned, clipped, wrapped
from pipeline.store.folder import Store, Unreadable

COLUMNS = ("name", "method", "rank", "trained", "size", "kept")
WIDEST = 60


def table(store: Store) -> str:
    """One line per adapter, and below them a line with its base, template and results.

    A damaged or unreadable one is marked, and the others are listed as usual.

    Raises:
        UserError: the store itself cannot be read.
    """
    names = store.names()
    if not names:
        return f"no adapters in {store.root}; `{next_command('keep', ADAPTER='NAME')}` puts a run's adapter there"
    rows: list[tuple[str, ...]] = [COLUMNS]
    notes, origins = [], []
    for name in names:
        try:
            record = store.record(name)
            rows.append(_row(store, name, record))
            origins.append(f"{name}: {_origin(record)}")
        except UserError as error:
            state = "unreadable" if isinstance(error, Unreadable) else "damaged"
            rows.append((name, state, *[""] * (len(COLUMNS) - 2)))
            notes.append(f"{name}: {error.what}")
    return "\n".join([aligned(rows, left=2), *map(wrapped, (*notes, *origins))])


def _row(store: Store, name: str, record: dict[str, Any]) -> tuple[str, ...]:
    trained, rank = record["trained_parameters"], record["rank"]
    cells = (
        record["method"], "" if rank is None else str(rank), f"{trained:,}", readable_size(store.size(name)),
        record["kept"][:10],
    )  # fmt: skip
    return (name, *(_clean(cell) for cell in cells))


def _origin(record: dict[str, Any]) -> str:
    """What an adapter belongs to, and its results."""
    base = f"base {clipped(record['base']['name'], 24)} ({record['base']['hash'][:8]})"
    results = _results(record.get("results"))
    parts = (base, f"template {record['template']['id']}", *([f"results: {results}"] if results else []))
    return ", ".join(_clean(part) for part in parts)


def _results(results: Any) -> str:
    """For each run: exact match on its held-out rows where they have one right answer, else the loss."""
    cells = []
    for run, splits in results.items() if isinstance(results, dict) else ():
        val = (splits.get("val") or splits.get("holdout")) if isinstance(splits, dict) else None
        if not isinstance(val, dict):
            continue
        exact, loss = val.get("exact"), val.get("loss")
        if isinstance(exact, (int, float)):
            cells.append(f"{run} {exact:.1%}")
        elif isinstance(loss, (int, float)):
            cells.append(f"{run} loss {loss:.3f}")
    return ", ".join(cells)


def _clean(text: str) -> str:
    """Text from a record, escaped for a terminal, since a record may come from elsewhere."""
    return quoted(text, WIDEST)[1:-1]


def detail(store: Store, name: str) -> str:
    """One adapter's whole record.

    Raises:
        UserError: as `Store.record`.
    """
    record = store.record(name)
    text = yaml.safe_dump(record, sort_keys=False, allow_unicode=True, width=WIDTH)
    whole = "\n".join(quoted(line, len(line) + 1)[1:-1] for line in text.splitlines())
    return f"{store.folder(name)}: {readable_size(store.size(name))}\n{whole}"
