"""What may not stand in the text of any card: placeholders, holes, places of one machine, links that lead nowhere."""

import ast
import importlib
import ipaddress
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

PLACEHOLDERS = re.compile(
    r"more information needed|lorem ipsum|\{\{|\{%|%\}|\[optional\]|(?-i:\b(?:TODO|TBD|FIXME|XXX)\b)"
    r"|<(?:your|insert|name|model|repo)[\w -]*>|\byour[-_](?:name|username|model|repo|org)\b",
    re.IGNORECASE,
)
_URL = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]*)://[^\s<>\"'`)\]]+", re.IGNORECASE)
_ABSOLUTE = re.compile(r"(?<![\w.}/$*-])(?:~?/(?:[\w.+@-]+/)+[\w.+@-]*|\b[A-Za-z]:[\\/][\w\\/]+|\\\\\w+\\\w+|~/\w+)")
_SECRET = re.compile(r"\bhf_[A-Za-z0-9]{16,}")
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)[^)]*\)")
_HEADING = re.compile(r"^(#{1,6}) +(.+?) *$", re.MULTILINE)
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_HOLES = {"None", "nan", "NaN", "inf", "-inf", "null", "undefined", "Undefined"}
_PRIVATE_ENDINGS = (
    *(".local", ".localhost", ".internal", ".intranet", ".lan", ".home", ".corp", ".test", ".example", ".invalid"),
)


def check_text(text: str, body: str, folder: Path | None, *, own_machine: bool = False) -> Iterator[str]:
    """Problems of any card, as sentences.

    Args:
        text: the whole card.
        body: its text without front matter.
        folder: of the repository, whose files relative links must hit; None: links are not followed.
        own_machine: examples in code may call a server on the reader's own machine.
    """
    for found in _unique(PLACEHOLDERS.findall(text)):
        yield f"placeholder text is left: {found!r}; write what belongs there"
    for found in _unique(_SECRET.findall(text)):
        yield f"it holds what looks like an access token ({found[:6]}...): remove it, and revoke the token"
    for found in _unique(match.group() for match in _ABSOLUTE.finditer(_URL.sub("", text))):
        yield f"it names a place of one machine: {found!r}; leave out such paths"
    for match in _URL.finditer(_FENCE.sub(_without_loopback, text) if own_machine else text):
        yield from _check_url(match)
    yield from _check_tables(body)
    yield from _check_sections(body)
    if folder is not None:
        for target in _unique(_LINK.findall(body)):
            if "://" not in target and not target.startswith("#") and not (folder / target.split("#")[0]).exists():
                yield f"it links to {target!r}, which is not beside it"


def check_code(body: str, *, needs_package: bool) -> Iterator[str]:
    """Problems of the Python blocks: each must parse, and what it imports from this package must exist.

    Nothing of a block is run.

    Args:
        body: the card's text.
        needs_package: at least one block must import from `fusion_hub`.
    """
    blocks = [code for language, code in _FENCE.findall(body) if language in ("python", "py")]
    for code in blocks:
        try:
            ast.parse(code)
        except SyntaxError as error:
            yield f"a Python block cannot be parsed: {error.msg}, in {(error.text or '').strip()!r}"
    for module, name in imported_names(body):
        try:
            known = name is None or hasattr(importlib.import_module(module), name)
        except ImportError:
            yield f"a Python block imports {module}, which this package does not have"
            continue
        if not known:
            yield f"a Python block imports {name!r} from {module}, which has no such name"
    if needs_package and not any(True for _ in imported_names(body)):
        yield "no Python block shows how to use it: import its class from fusion_hub"


def imported_names(body: str) -> list[tuple[str, str | None]]:
    """`(module, name)` of everything that the Python blocks import from `fusion_hub`; no name for plain imports."""
    found: list[tuple[str, str | None]] = []
    for language, code in _FENCE.findall(body):
        if language not in ("python", "py"):
            continue
        try:
            nodes = list(ast.walk(ast.parse(code)))
        except SyntaxError:
            continue
        for node in nodes:
            if isinstance(node, ast.Import):
                found += [(alias.name, None) for alias in node.names if _is_ours(alias.name)]
            elif isinstance(node, ast.ImportFrom) and node.module and _is_ours(node.module):
                found += [(node.module, alias.name) for alias in node.names]
    return found


def _is_ours(module: str) -> bool:
    return module.split(".")[0] == "fusion_hub"


def _check_url(match: re.Match[str]) -> Iterator[str]:
    url = match.group()
    if match["scheme"].lower() not in ("http", "https"):
        yield f"it links to {url!r}: give an https address"
        return
    try:
        parts = urlsplit(url)
        host = (parts.hostname or "").lower()
    except ValueError:
        yield f"the link {url!r} cannot be parsed"
        return
    if parts.username or parts.password:
        yield f"the link to {host} carries a user name or password: remove it"
    if not _is_public(host):
        yield f"it links to {host!r}, which other people cannot reach"


def _without_loopback(block: re.Match[str]) -> str:
    return re.sub(r"http://(?:127\.0\.0\.1|localhost)(?::\d+)?", "", block.group())


def _is_public(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_global
    except ValueError:
        return "." in host.strip(".") and not host.endswith(_PRIVATE_ENDINGS)


def _check_tables(body: str) -> Iterator[str]:
    for line in body.splitlines():
        if line.startswith("|"):
            holes = [cell for cell in split_row(line) if cell.strip("*`") in _HOLES]
            if holes:
                yield f"a value is missing: the table row {line.strip()!r} says {holes[0]}"


def _check_sections(body: str) -> Iterator[str]:
    headings = [*_HEADING.finditer(_FENCE.sub(lambda match: "~" * len(match.group()), body))]
    for own, following in zip(headings, [*headings[1:], None], strict=True):
        content = body[own.end() : following.start() if following else len(body)]
        deeper = following is not None and len(following[1]) > len(own[1])
        if not content.strip() and not deeper:
            yield f"the section {own[2]!r} is empty"


def split_row(line: str) -> list[str]:
    """Cells of a Markdown table's row."""
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip().strip("|"))]


def _unique(found: Iterator[str] | list[str]) -> list[str]:
    return list(dict.fromkeys(found))
