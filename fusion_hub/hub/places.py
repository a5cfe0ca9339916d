"""Paths that mean something on one machine only: found in what is to be published, and replaced."""

import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

_IN_TEXT = re.compile(r"(?<![\w.:/}<>$-])(?:/[\w.@~+-]+){2,}|(?<!\w)[A-Za-z]:\\\w|(?<![\w/])~/\w")
"""As in `/home/me/data`; not the parts of an address or of `and/or`."""


def is_place(text: str) -> bool:
    """Whether a string is a path that means something on one machine only."""
    absolute = PurePosixPath(text).is_absolute() or PureWindowsPath(text).is_absolute()
    return "\n" not in text and (absolute or text.startswith(("~", "../", "..\\")))


def without_places(value: Any) -> Any:
    """The same value, in which paths of this machine have become what others can use.

    Below the working folder: relative to it; below `FUSION_HUB_DATA`: by that name; elsewhere: the name alone.

    Args:
        value: a string, or anything that JSON and YAML can hold.
    """
    if isinstance(value, Mapping):
        return {key: without_places(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [without_places(entry) for entry in value]
    return _without_place(value) if isinstance(value, str) and is_place(value) else value


def find_places(text: str, suffix: str) -> list[str]:
    """Paths of one machine in the text of a `.json`, `.yaml` or `.md` file."""
    import yaml

    found = [match.group() for match in _IN_TEXT.finditer(text)]
    if suffix in (".json", ".yaml"):
        content = json.loads(text) if suffix == ".json" else yaml.safe_load(text)
        found += [value for value in _strings(content) if is_place(value)]
    home = str(Path.home())
    return [*found, home] if len(home) > 1 and home in text else found


def _without_place(text: str) -> str:
    from fusion_hub.hub.cards.datasets import set_key

    if PureWindowsPath(text).is_absolute() and not Path(text).is_absolute():
        return set_key(text)  # of another machine than this one
    place = Path(os.path.abspath(Path(text).expanduser()))
    roots = {"": Path.cwd()}
    if data := os.environ.get("FUSION_HUB_DATA"):
        roots = {"${FUSION_HUB_DATA}": Path(os.path.abspath(data)), **roots}
    for prefix, root in roots.items():
        if place != root and place.is_relative_to(root):
            return (PurePosixPath(prefix) / place.relative_to(root).as_posix()).as_posix()
    return set_key(text)


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, entry in value.items():
            yield from _strings(key)
            yield from _strings(entry)
    elif isinstance(value, list):
        for entry in value:
            yield from _strings(entry)
