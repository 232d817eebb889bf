"""Makes the environment with the pinned dependencies: `python3 -m scripts.setup_venv EXTRA [more pip arguments]`.

Called by make, with VENV (the folder) and TORCH (`cuda`, `cpu` or empty) in the environment. Standard library only, as
is scripts/setup/, which does the work: nothing is installed yet. This file avoids new syntax, so that an old Python
prints a message instead of a syntax error.
"""

import os
import sys

# Candidates named in the message below. A pyenv shim is on the PATH without being usable, so each one is started.
NEWER = ["python3.13", "python3.12", "python3.11"]

if sys.version_info < (3, 11):  # noqa: UP036  (whoever runs this may have any Python)
    usable = [name for name in NEWER if os.system(name + " -c pass >/dev/null 2>&1") == 0]
    fix = "install Python 3.11 to 3.14, then name it: make export PYTHON=python3.12"
    if usable:
        fix = "make export PYTHON=" + usable[0]
    sys.stderr.write("suri: Python 3.11 or newer is needed, this is " + sys.version.split()[0] + "\n")
    sys.stderr.write("  where: " + sys.executable + "\n  fix:   " + fix + "\n")
    raise SystemExit(2)

from scripts.setup.install import main  # noqa: E402  (its syntax is too new for what the check above refuses)

if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
