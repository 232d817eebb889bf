"""As many connections as the system allows, and no lower limit than before."""

from __future__ import annotations

import resource

import pytest

from pipeline.run.open_files import OTHER_FILES, connections_allowed

NO_LIMIT = resource.RLIM_INFINITY


@pytest.mark.parametrize(
    ("soft", "hard", "allowed", "raised"),
    [
        (256, 4096, 1024, 1024 + OTHER_FILES),
        (256, NO_LIMIT, 1024, 1024 + OTHER_FILES),
        (256, 512, 512 - OTHER_FILES, 512),
        (4096, 4096, 4096 - OTHER_FILES, None),
        (NO_LIMIT, NO_LIMIT, 1024, None),
        (64, 64, 64 - OTHER_FILES, 64),
    ],
)
def test_the_limit_is_raised_where_it_may_be(
    soft: int, hard: int, allowed: int, raised: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda _, pair: limits.append(pair))
    assert connections_allowed(1024) == allowed
    assert limits == ([] if raised is None else [(raised, hard)])
