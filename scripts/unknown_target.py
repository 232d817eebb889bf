"""Says which target of the Makefile a misspelt one probably was: `python3 scripts/unknown_target.py WORD Makefile`.

Standard library only and any Python from 3.6 on, since it runs before .venv exists. Ends with code 2.
"""

import difflib
import re
import sys


def targets(makefile):  # type: ignore[no-untyped-def]
    """Names of the targets that the Makefile declares as commands."""
    lines = re.findall(r"^\.PHONY:(.*)$", makefile, re.M)
    return [name for line in lines for name in line.split() if name != "demo-base"]


def message(word, names):  # type: ignore[no-untyped-def]
    """What is wrong, and the nearest target or the list of them."""
    near = difflib.get_close_matches(word.lower(), names, 1)
    fix = f"did you mean `make {near[0]}`? `make` lists all" if near else "`make` lists all"
    return f"suri: no such target: {word!a}\n  fix:   {fix}"


if __name__ == "__main__":
    with open(sys.argv[2], encoding="utf-8") as file:
        print(message(sys.argv[1], targets(file.read())), file=sys.stderr)
    raise SystemExit(2)
