"""`make clean` and `make clean-runs`: python -m scripts.clean tmp | runs [yes].

tmp: half-written folders of killed processes, in all runs. runs: all run folders; without `yes` they are only listed.
"""

import sys

from pipeline.cli.main import start

WORDS = {("tmp",): ["clean"], ("runs",): ["clean-runs"], ("runs", "yes"): ["clean-runs", "--yes"]}

if __name__ == "__main__":
    given = tuple(sys.argv[1:])
    if given not in WORDS:
        raise SystemExit(__doc__)
    raise SystemExit(start(WORDS[given]))
