"""`make clean` and `make clean-runs`: python -m scripts.clean tmp | runs [yes].

tmp: half-written folders of killed processes, in all runs. runs: all run folders; without `yes` they are only listed.
"""

import sys

from pipeline.cli.main import start

WORDS = {("tmp",): ["clean"], ("runs",): ["clean-runs"], ("runs", "yes"): ["clean-runs", "--yes"]}

if __name__ == "__main__":
    words = WORDS.get(tuple(sys.argv[1:]))
    if words is None:
        print(__doc__, file=sys.stderr)
    raise SystemExit(2 if words is None else start(words))
