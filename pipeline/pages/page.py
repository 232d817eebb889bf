"""The HTML of every page: one file that needs no network, for wide and narrow screens, mouse and keyboard.

    page     a report: header, links to its sections, the sections, footer      (data report, run report)
    shell    the same around any body, with CSS and JavaScript of its own       (compare page)

Texts of rows are untrusted: all are escaped, and the page's Content-Security-Policy forbids every script but its own
and every connection.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from pipeline import __version__
from pipeline.pages.drawing import ROLES
from pipeline.pages.phrases import attribute, html_of, joined, phrase, script_texts
from pipeline.pages.text import escape

HERE = Path(__file__).parent


def page(name: str, kind: str, sections: Mapping[str, str], about: str) -> str:
    """A report from the HTML of its sections. The same input gives the same bytes.

    Args:
        name: of the run. kind: what the page is. about: text of the footer, behind the version.
    """
    ids = {heading: heading.lower().replace(" ", "-") for heading in sections}
    links = "".join(f'<a href="#{ids[heading]}">{html_of(heading)}</a>' for heading in sections)
    body = "".join(
        f'<section id="{ids[heading]}"><h2>{html_of(heading)}</h2>{content}</section>'
        for heading, content in sections.items()
    )
    whole = f"<nav{attribute('aria-label', phrase('sections'))}><div>{links}</div></nav><main>{body}</main>"
    return shell(name, kind, whole, html_of(joined([phrase("made-by", version=__version__), about])))


def shell(name: str, kind: str, body: str, about: str, style: str = "", script: str = "") -> str:
    """A page with its security policy.

    Args:
        name: of the run. kind: what the page is. body: HTML between header and footer. about: HTML of the footer.
        style: CSS after page.css. script: JavaScript in place of page.js, after language.js.
    """
    title = escape(name)
    script = _file("language.js") + (script or _file("page.js"))
    texts = escape(json.dumps(script_texts(), ensure_ascii=False))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<title>{title}: {kind.lower()}</title><link rel="icon" href="data:,">'
        f"<style>{_scheme()}{_file('page.css')}{style}</style></head>"
        f'<body data-texts="{texts}"><header><button type="button" id="language" hidden></button>'
        f'<p class="soft">{html_of(kind)}</p><h1>{title}</h1></header>{body}<footer><p>{about}</p></footer>'
        f'<div id="tip" role="presentation"></div><script>{script}</script></body></html>\n'
    )


def _file(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")


def _scheme() -> str:
    """The colours of the roles as variables, for both schemes."""
    light, dark = ("".join(f"--{role}:{pair[i]};" for role, pair in ROLES.items()) for i in (0, 1))
    return f":root{{color-scheme:light dark;{light}}}@media screen and (prefers-color-scheme:dark){{:root{{{dark}}}}}"
