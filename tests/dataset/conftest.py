"""Fixtures of the data stage."""

from tests.helpers.data_stage import build, run

__all__ = ["build", "run"]
