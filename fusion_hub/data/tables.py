"""Tables as people save them: CSV of any program and language, JSON lines, a JSON array; and cells of our own."""

import csv
import io
import json
from pathlib import Path
from typing import Any

_ENCODINGS = ("utf-8", "cp1252", "mac_roman", "cp850", "cp437", "cp1250", "cp1251", "gb18030", "shift_jis", "euc_kr")
_BYTE_ORDER_MARKS = ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))
_DELIMITERS = ",;\t|"
_MOST_BYTES = 256 << 20


def read_rows(file: Path) -> list[dict[str, Any]]:
    """The rows of a `.csv`, `.tsv`, `.jsonl` or `.json` file as dictionaries.

    The encoding is that of a byte order mark, UTF-8, or else the one in which most of the named files exist beside the
    table. CSV may be separated by commas, semicolons, tabs or bars. A JSON array counts as JSON lines.

    Raises:
        ValueError: it is no such table; one sentence that names the file and the line.
    """
    try:
        size = file.stat().st_size
        if size > _MOST_BYTES:
            raise ValueError(f"{file} has {size >> 20} MiB, at most {_MOST_BYTES >> 20} are read: split the table")
        data = file.read_bytes()
    except OSError as error:
        raise ValueError(f"{file} cannot be read ({error.strerror}): check its permissions") from error
    parse = _parse_csv if file.suffix.lower() in (".csv", ".tsv") else _parse_json
    for mark, encoding in _BYTE_ORDER_MARKS:
        if data.startswith(mark):
            try:
                return parse(data.decode(encoding), file)
            except UnicodeDecodeError as error:
                raise ValueError(f"{file} is damaged text: save it again as UTF-8") from error
    best: tuple[int, list[dict[str, Any]]] | None = None
    for encoding in _ENCODINGS:
        try:
            rows = parse(data.decode(encoding), file)
        except UnicodeDecodeError:
            continue
        if encoding == "utf-8":
            return rows
        found = sum((file.parent / value).exists() for row in rows for value in row.values() if _is_name(value))
        if best is None or found > best[0]:
            best = (found, rows)
    if best is None:
        raise ValueError(f"{file} is no text in a known encoding: save it as UTF-8")
    return best[1]


def plain_cell(text: str) -> str:
    """A cell of a CSV file that no spreadsheet takes for a formula, as names that come from strangers could be."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) < 255 and "\0" not in value


def _parse_csv(text: str, file: Path) -> list[dict[str, Any]]:
    lines = text.splitlines()
    delimiter = ","
    if lines and lines[0].lower().startswith("sep=") and len(lines[0]) == 5:  # Excel's own first line
        delimiter, text = lines[0][4], text.split("\n", 1)[-1]
    elif lines:
        delimiter = max(_DELIMITERS, key=lines[0].count)
    try:
        rows = list(csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True))
    except csv.Error as error:
        raise ValueError(f"{file} is no CSV table: save it again as CSV in UTF-8") from error
    plain = [{(key or "").strip(): value for key, value in row.items() if key is not None} for row in rows]
    return [row for row in plain if any(value for value in row.values())]  # Excel leaves rows of commas


def _parse_json(text: str, file: Path) -> list[dict[str, Any]]:
    stripped = text.strip()
    rows: list[Any] = []
    if stripped.startswith("["):
        try:
            rows = json.loads(stripped)
        except (json.JSONDecodeError, RecursionError) as error:
            where = f", line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
            raise ValueError(f"{file}{where} is no JSON array: write one JSON object for each pair") from error
    else:
        for number, line in enumerate(text.splitlines(), start=1):
            if line.strip():
                try:
                    rows.append(json.loads(line))
                except (json.JSONDecodeError, RecursionError) as error:
                    raise ValueError(f"{file}, line {number} is no JSON: write one JSON object in each line") from error
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise ValueError(f"{file}, entry {number} is a {type(row).__name__}: write a JSON object for each pair")
    return rows
