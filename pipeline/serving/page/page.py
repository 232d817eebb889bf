"""The page of `make ui`: one HTML file over the server's own API, with nothing from outside.

page.html       the body; `data-t` names the text of an element, `data-t-label` of its aria-label
page.css        style, after the colours of all pages (`pipeline.pages.drawing.ROLES`)
texts.toml      every text, in English and Korean
scripts/*.js    joined in the order of SCRIPTS into one script
"""

from __future__ import annotations

import base64
import functools
import hashlib
import html
import json
import re
import tomllib
from pathlib import Path

from pipeline.pages.drawing import ROLES

HERE = Path(__file__).parent
SCRIPTS = (
    "base", "words", "api", "tabs", "server", "settings", "answer", "question", "ask", "votes", "history", "prompt",
    "code", "chat", "run", "start",
)  # fmt: skip
# Surfaces that only this page has: (light, dark).
SURFACES = {"raised": ("#f5f7f9", "#1c2229"), "field": ("#ffffff", "#101418")}
ICON = (
    "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 24 24'%3E%3Cpath "
    "d='M3 5c7-1 14 2 18 9-4-2-7-2-10-1l3 6C8 17 4 12 3 5z' fill='%234a90c2'/%3E%3C/svg%3E"
)


@functools.cache
def page() -> str:
    """The whole page. It holds nothing of a run: it asks the server that sends it."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1, interactive-widget=resizes-content">'
        '<meta name="referrer" content="no-referrer"><meta name="color-scheme" content="light dark">'
        f'<title>Suri</title><link rel="icon" href="{ICON}"><style>{_style()}</style></head>'
        f"<body>\n{_body()}<script>{_script()}</script></body></html>\n"
    )


@functools.cache
def content_security_policy() -> str:
    """The value of the header `Content-Security-Policy` for the page: its own style and script by hash, connections to
    its own server alone, no text as HTML (Trusted Types)."""
    return (
        f"default-src 'none'; script-src {_hash(_script())}; style-src {_hash(_style())}; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    )


@functools.cache
def texts() -> dict[str, dict[str, str]]:
    """The tables `en` and `ko` (the same keys), and `labels` (English words: Korean words)."""
    return tomllib.loads(_file("texts.toml"))


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _file(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")


def _compact(text: str) -> str:
    """Without indentation, empty lines and lines of comment alone. No text of the sources spans lines."""
    lines = (line.strip() for line in text.splitlines())
    return "\n".join(line for line in lines if line and not line.startswith(("// ", "/* ")))


def _style() -> str:
    roles = ROLES | SURFACES
    light, dark = ("".join(f"--{role}:{pair[i]};" for role, pair in roles.items()) for i in (0, 1))
    return (
        f":root{{color-scheme:light;{light}}}"
        f"@media screen and (prefers-color-scheme:dark){{:root:not([data-theme=light]){{color-scheme:dark;{dark}}}}}"
        f"@media screen{{:root[data-theme=dark]{{color-scheme:dark;{dark}}}}}{_rules()}"
    )


def _rules() -> str:
    compact = _compact(_file("page.css"))
    for separator in ("{", "}", ";", ":", ","):
        compact = compact.replace(f"{separator} ", separator)
    return compact.replace(" {", "{").replace(";}", "}")


def _body() -> str:
    """page.html with the English texts in place, for the moment before the script runs."""
    english = texts()["en"]
    filled = re.sub(
        r'(<[^<>]* data-t="([\w-]+)"[^<>]*>)(?=</)',
        lambda match: match[1] + html.escape(english[match[2]]),
        _compact(_file("page.html")),
    )
    return re.sub(
        r' data-t-label="([\w-]+)"', lambda match: f'{match[0]} aria-label="{html.escape(english[match[1]])}"', filled
    )


def _script() -> str:
    """All scripts as one function, so that the page has no global names."""
    tables = json.dumps(texts(), ensure_ascii=False, separators=(",", ":")).replace("</", "<\\/")
    code = "\n".join(_compact(_file(f"scripts/{name}.js")) for name in SCRIPTS)
    return f'"use strict";(() => {{\nconst TEXTS = {tables};\n{code}}})();'
