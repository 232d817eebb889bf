"""A process that renders chat templates with transformers' sandboxed renderer, within limits that the kernel keeps.

A template is a program of whoever made the base. The sandbox forbids it files and Python's inside, not loops or memory:
`{{ 9 ** 9 ** 9 }}` alone would run for years. So each rendering has a second of CPU time, after which the kernel ends
this process (SIGPROF), whatever it is doing, and 1 GB of address space. It is also what keeps transformers, which takes
a second to import, out of processes that only encode. Started by `chat_renderer.py`, as a file: it imports nothing of
this project.

    stdin    {"template": text, "names": {"bos_token": "<s>", ...}, "items": [{"messages": [...], ...}, ...]}
    stdout   one line an item: {"text": "..."} or {"error": "...", "kind": "refused" | "unfit" | "memory" | "length"}
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from typing import Any

SECONDS = 1.0  # of CPU time, for one conversation
MEMORY = 1 << 30  # bytes more than the process has when it starts
LONGEST = 10_000_000  # characters of a rendered conversation


def render(render_template: Any, template: str, names: dict[str, str], item: dict[str, Any]) -> dict[str, str]:
    """One conversation as text, or why not."""
    from jinja2 import TemplateSyntaxError
    from jinja2.exceptions import SecurityError, TemplateError

    kind, what = "refused", ""
    try:
        texts, _ = render_template(
            [item["messages"]], tools=item.get("tools"), chat_template=template,
            add_generation_prompt=item.get("open", False), **{**names, **item.get("more", {})},
        )  # fmt: skip
        if len(texts[0]) <= LONGEST:
            return {"text": texts[0]}
        kind, what = "length", f"{len(texts[0]):,} characters"
    except TemplateSyntaxError as error:
        kind, what = "unfit", f"it does not compile: {error.message}, line {error.lineno}"
    except SecurityError as error:
        kind, what = "unfit", f"the sandbox forbids what it does: {error}"
    except OverflowError as error:
        kind, what = "unfit", str(error)
    except MemoryError:
        kind, what = "memory", "out of memory"
    except RecursionError:
        kind, what = "unfit", "its macros call each other without end"
    except TemplateError as error:  # also of `raise_exception`
        what = error.message or type(error).__name__
    except ImportError as error:
        kind, what = "unfit", str(error)
    except Exception as error:  # whatever a template's operators raise
        what = f"{type(error).__name__}: {error}"
        if "no loader for this environment" in what:
            kind, what = "unfit", "it imports or includes another file, and a chat template is one file"
    return {"error": what, "kind": kind}


def limit_memory() -> None:
    """Limits the address space, where the system tells how large it is (Linux)."""
    try:
        with open("/proc/self/statm") as statm:
            size = int(statm.read().split()[0]) * resource.getpagesize()
    except OSError:
        return
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, size + MEMORY))


def _failing(error: ImportError) -> Any:
    """A renderer that says why there is none."""
    said = str(error)

    def fail(*_: Any, **__: Any) -> Any:
        raise ImportError(said)

    return fail


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(2, 1)  # what libraries print is no answer
    render_template: Any
    try:
        from transformers.utils.chat_template_utils import render_jinja_template

        render_template = render_jinja_template
    except ImportError as error:
        render_template = _failing(error)
    limit_memory()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which closes stdin
    for line in sys.stdin:
        request = json.loads(line)
        for item in request["items"]:
            signal.setitimer(signal.ITIMER_PROF, SECONDS)
            answer = render(render_template, request["template"], request["names"], item)
            signal.setitimer(signal.ITIMER_PROF, 0)
            answers.write(json.dumps(answer) + "\n")
            answers.flush()


if __name__ == "__main__":
    main()
