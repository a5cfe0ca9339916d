"""What is wrong with a paired set, found before work starts and written so that a person can act on it."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

from fusion_hub.data.pictures import READ_ERRORS, Pair, inspect_picture


class Overlap(NamedTuple):
    """A picture that two sets share: `name` here is `other_name` there; the bands are "visible" or "infrared"."""

    name: str
    band: str
    other_name: str
    other_band: str


_REMARKS = ("left_out", "notes")
"""Sections of a report that are no defects."""


@dataclass
class Findings:
    """What was left out while the pairs were put together."""

    missing_infrared: list[str] = field(default_factory=list)
    missing_visible: list[str] = field(default_factory=list)
    ambiguous: list[str] = field(default_factory=list)
    unlisted: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class PairReport:
    """What `PairedDataset.check` found. Print it to read it; `ok` is true when nothing is wrong."""

    source: str
    pairs: int
    missing_infrared: tuple[str, ...] = ()  # visible files without a partner
    missing_visible: tuple[str, ...] = ()
    ambiguous: tuple[str, ...] = ()  # one stem, several files: left out
    unlisted: tuple[str, ...] = ()  # beside listed files, but not in the metadata
    left_out: tuple[str, ...] = ()  # files beside the pictures that are none
    notes: tuple[str, ...] = ()  # how the files were understood, where that is not obvious
    repeated_names: tuple[str, ...] = ()
    unequal_sizes: tuple[str, ...] = ()
    unreadable: tuple[str, ...] = ()
    duplicates: tuple[str, ...] = ()  # groups of equal pictures
    bad_names: frozenset[str] = frozenset()  # pairs that cannot be used: unreadable or of unequal size
    digests: Mapping[str, Sequence[str]] = field(default_factory=dict, repr=False, compare=False)  # and who has each

    @property
    def usable(self) -> int:
        """Pairs that can be read and whose two pictures have one size."""
        return self.pairs - len(self.bad_names)

    @property
    def ok(self) -> bool:
        return self.usable > 0 and not any(v for k, v in self._sections().items() if k not in _REMARKS)

    def raise_if_empty(self) -> "PairReport":
        """Return the report itself; raises `ValueError` with the whole report where no usable pair is left."""
        if self.usable <= 0:
            raise ValueError(f"no usable pair is left.\n{self}")
        return self

    def _sections(self) -> dict[str, tuple[str, ...]]:
        listed = (f.name for f in fields(self) if f.name not in ("source", "pairs", "bad_names", "digests"))
        return {name: getattr(self, name) for name in listed}

    def __str__(self) -> str:
        lines = [f"{self.source}: {self.pairs} pairs, {self.usable} usable"]
        for name, items in self._sections().items():
            if items and name == "notes":
                lines += [f"  warning: {item}" for item in items]
            elif items:
                lines.append(f"  {name.replace('_', ' ')} ({len(items)}): {some(items, separator='; ')}")
        if len(lines) == 1:
            lines.append("  no problems found")
        return "\n".join(lines)


@dataclass
class Checked:
    """What `PairedDataset.check` gathers, pair by pair."""

    names: list[str] = field(default_factory=list)
    unequal: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    bad: set[str] = field(default_factory=set)
    digests: dict[str, list[str]] = field(default_factory=dict)

    def add(self, pair: Pair, decode: bool) -> None:
        self.names.append(pair.name)
        sizes = []
        for band, source in (("visible", pair.visible_source), ("infrared", pair.infrared_source)):
            try:
                size, digest = inspect_picture(source, decode)
            except READ_ERRORS as error:
                self.unreadable.append(f"{pair.name} ({band}): {error}")
                self.bad.add(pair.name)
                continue
            sizes.append(size)
            self.digests.setdefault(digest, []).append(f"{pair.name} ({band})")
        if len(sizes) == 2 and sizes[0] != sizes[1]:
            (vw, vh), (iw, ih) = sizes
            self.unequal.append(f"{pair.name}: visible {vw}x{vh}, infrared {iw}x{ih}")
            self.bad.add(pair.name)

    def problems(self) -> dict[str, Any]:
        """The fields of `PairReport` that come from looking at the pictures."""
        return {
            "repeated_names": tuple(name for name, count in Counter(self.names).items() if count > 1),
            "unequal_sizes": tuple(self.unequal),
            "unreadable": tuple(self.unreadable),
            "duplicates": tuple(
                some(group, most=4, separator=" = ") for group in self.digests.values() if len(group) > 1
            ),
            "bad_names": frozenset(self.bad),
            "digests": self.digests,
        }


def some(items: Sequence[str], most: int = 8, separator: str = ", ") -> str:
    if not items:
        return "none"
    return separator.join(items[:most]) + (f"{separator}and {len(items) - most} more" if len(items) > most else "")
