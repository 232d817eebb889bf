"""Every message of a `UserError` in the sources, as a template: `python -m tests.helpers.messages` rewrites the golden
file, whose diff shows a reviewer all that a change says differently to users.

A placeholder of an f-string, and whatever is only known when the program runs, is written `{}`. A name stands for what
its function (else its module) assigns to it; several texts, as of a condition, are joined by ` | `.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden" / "messages.txt"
FIELDS = ("what", "where", "fix")
UNKNOWN = "{}"
Scopes = tuple[ast.AST, ...]  # the functions around a node, the innermost first, and the module


def messages() -> str:
    """All templates, sorted by file and text: one line for each part of a message that is given."""
    lines: list[str] = []
    for path, tree in _modules().items():
        found = sorted({_message(call, scopes) for call, scopes in _calls(tree, ())} - {""})
        if found:
            lines += [f"# {path.relative_to(ROOT).as_posix()}", *found, ""]
    return "\n".join(lines)


@functools.cache
def _modules() -> dict[Path, ast.Module]:
    paths = sorted(path for room in ("pipeline", "scripts") for path in (ROOT / room).rglob("*.py"))
    return {path: ast.parse(path.read_text()) for path in paths}


@functools.cache
def _errors() -> set[str]:
    """`UserError` and the classes that are made of it."""
    classes = [node for tree in _modules().values() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    return {"UserError"} | {c.name for c in classes if "UserError" in [getattr(b, "id", "") for b in c.bases]}


def _calls(node: ast.AST, scopes: Scopes) -> Iterator[tuple[ast.Call, Scopes]]:
    """Calls of a `UserError` with the scopes around them."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _errors():
        yield node, scopes
    inner = (node, *scopes) if isinstance(node, (ast.Module, ast.FunctionDef)) else scopes
    for child in ast.iter_child_nodes(node):
        yield from _calls(child, inner)


def _message(call: ast.Call, scopes: Scopes) -> str:
    given = dict(zip(FIELDS, call.args, strict=False)) | {k.arg: k.value for k in call.keywords if k.arg}
    texts = {field: " | ".join(_templates(given[field], scopes)) for field in FIELDS if field in given}
    lines = [f"{field + ':':6} {text}".replace("\n", "\\n") for field, text in texts.items() if text]
    return "\n".join(lines)


def _templates(node: ast.expr, scopes: Scopes, names: frozenset[str] = frozenset()) -> list[str]:
    """The texts that an expression can be. names: those being looked up, so that none is looked up in itself."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return [node.value]
    if isinstance(node, ast.JoinedStr):
        return ["".join(str(p.value) if isinstance(p, ast.Constant) else UNKNOWN for p in node.values)]
    if isinstance(node, ast.IfExp):
        return _unique(_templates(node.body, scopes, names) + _templates(node.orelse, scopes, names))
    if isinstance(node, ast.BoolOp):
        return _unique([text for value in node.values for text in _templates(value, scopes, names)])
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        left, right = _templates(node.left, scopes, names), _templates(node.right, scopes, names)
        return _unique([a + b for a in left for b in right])
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("nearest", "nearest_file"):
        place = 2 if node.func.id == "nearest" else 1  # of the argument `otherwise`
        return ["did you mean {}?", *(t for a in node.args[place : place + 1] for t in _templates(a, scopes, names))]
    if isinstance(node, ast.Name) and node.id not in names:
        for scope in scopes:
            if values := [value for a in ast.walk(scope) for value in _assigned(a, node.id)]:
                return _unique([t for v in values for t in _templates(v, scopes, names | {node.id})])
    return [UNKNOWN]


def _assigned(node: ast.AST, name: str) -> Iterator[ast.expr]:
    """What an assignment gives a name; of `a, b = x, y` the part that it gets."""
    for target in node.targets if isinstance(node, ast.Assign) else ():
        pairs = [(target, node.value)]
        both = isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple)
        if both and len(target.elts) == len(node.value.elts):  # `*name` among them takes several
            pairs = list(zip(target.elts, node.value.elts, strict=True))
        yield from (value for place, value in pairs if isinstance(place, ast.Name) and place.id == name)


def _unique(texts: list[str]) -> list[str]:
    return list(dict.fromkeys(texts))


if __name__ == "__main__":
    GOLDEN.parent.mkdir(exist_ok=True)
    GOLDEN.write_text(messages())
