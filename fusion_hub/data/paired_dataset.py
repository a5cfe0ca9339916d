"""One interface to every paired set: folders, metadata files, the Hub, lists, `datasets` objects.

Training, evaluation and fusion all read their pairs through `PairedDataset.open`. The visible picture may also be CT,
PET or SPECT (it carries the color), the infrared one MRI.
"""

import os
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path, PurePosixPath
from typing import Any

from fusion_hub.data import layouts
from fusion_hub.data.pairs import (
    EXCHANGED,
    READ_ERRORS,
    Findings,
    Overlap,
    Pair,
    PairReport,
    inspect_pairs,
    inspect_picture,
    load_picture,
    looks_exchanged,
)
from fusion_hub.data.synthetic import generated_pairs
from fusion_hub.repositories import NOT_REACHED, check_hub_id, first_line, hub_answers

_GENERATED = re.compile(r"generated(?::(\d+))?")


class PairedDataset:
    """A set of pairs from any source. Make one with `PairedDataset.open`.

    Iterating and indexing give `Pair`s, which read their pictures on demand; a slice is a smaller set. Map-style sets
    have a `len`; a streamed one has `length` None and can only be iterated.
    """

    def __init__(self, rows: "Sequence[Pair] | _TableRows | _StreamRows", description: str) -> None:
        self._stream = rows if isinstance(rows, _StreamRows) else None
        self._rows: Sequence[Pair] | _TableRows = () if isinstance(rows, _StreamRows) else rows
        self._indices: Sequence[int] = range(len(self._rows))
        self._findings = Findings()
        self.description = description

    @classmethod
    def open(cls, source: Any, split: str | None = None, streaming: bool = False) -> "PairedDataset":
        """Open a paired set.

        Args:
            source: one of
                - a folder with a visible and an infrared subfolder (`vis`/`ir` and other common names, any case; CT,
                  PET or SPECT with MRI), whose files belong together by stem, whatever their extensions;
                - one folder with both images of each pair, distinguished by name: `a_vis` and `a_ir`,
                  `DJI_0001_V` and `DJI_0001_T`;
                - a folder with `metadata.csv`, `.tsv`, `.jsonl` or `.json` that has `visible_file_name` and
                  `infrared_file_name` columns and, optionally, `name`;
                - a tuple of two folders, two files or two lists of files, `(visible, infrared)`;
                - a folder with Parquet files that have two image columns, such as a downloaded Hub dataset;
                - a Hub dataset id, `"owner/name"`, with two image columns;
                - a list of files, distinguished by their names or folders, as `a_vis` and `a_ir`;
                - a list of `(visible, infrared)` or `{"visible", "infrared", "name"}` of paths, PIL images or arrays;
                - a `datasets.Dataset` or `datasets.IterableDataset`;
                - `"generated"` or `"generated:COUNT"`: scenes of `fusion_hub.data.synthetic`;
                - a `PairedDataset`, which is returned.
            split: `train`, `test` ...: a folder `SPLIT/vis` or `vis/SPLIT`, or the split of a Hub dataset. Needed where
                there are several.
            streaming: read a Hub dataset while it is downloaded. Local files are never read before they are needed.

        Raises:
            FileNotFoundError: no such folder.
            ValueError: nothing usable is there; the message says what was seen and what is understood.
            TypeError: `source` is none of the above.
        """
        if isinstance(source, cls):
            return source
        if isinstance(source, str | os.PathLike):
            return cls._open_name(os.fspath(source), split, streaming)
        if isinstance(source, tuple) and len(source) == 2 and all(isinstance(s, str | os.PathLike) for s in source):
            return cls._open_two(Path(source[0]), Path(source[1]), split)
        if isinstance(source, tuple) and len(source) == 2 and all(_are_paths(side) for side in source):
            sides = [[Path(file) for file in side] for side in source]
            return cls._from_pairs(*layouts.pair_lists(*sides), f"{' + '.join(str(len(side)) for side in sides)} files")
        if _are_paths(source):
            return cls._from_pairs(*layouts.pair_lists([Path(file) for file in source]), f"{len(source)} files")
        if isinstance(source, list | tuple):
            return cls._from_pairs(layouts.list_pairs(source), Findings(), f"a list of {len(source)} pairs")
        if hasattr(source, "cast_column") and hasattr(source, "column_names"):
            return cls._from_table(source, f"a datasets.{type(source).__name__}")
        raise TypeError(
            f"source is a {type(source).__name__}; give a folder, two folders (visible, infrared), a Hub id "
            '"owner/name", a list of (visible, infrared) pairs or a datasets.Dataset'
        )

    @classmethod
    def _open_name(cls, source: str, split: str | None, streaming: bool) -> "PairedDataset":
        root = Path(source).expanduser()
        if root.is_dir():
            if layouts.holds_parquet(root):
                return cls._open_table(os.fspath(root), split, streaming)
            return cls._from_pairs(*layouts.open_folder(root, split))
        if root.exists():
            raise ValueError(f"{source} is a file: give its folder, or both files of the pair")
        if generated := _GENERATED.fullmatch(source):
            # An odd seed for every split but train, so that no two of them share a shipped pair with it.
            seed = 0 if split in (None, "train") else zlib.crc32(str(split).encode()) | 1
            return cls.open(generated_pairs(int(generated[1] or 64), seed))
        check_hub_id(source, "data set", "an existing folder, or the id of a Hub dataset, 'owner/name'")
        return cls._open_table(source, split, streaming)

    @classmethod
    def _open_two(cls, visible: Path, infrared: Path, split: str | None) -> "PairedDataset":
        for path in (visible, infrared):
            if not path.exists():
                raise FileNotFoundError(f"{path}: no such file or folder")
        if visible.is_file() and infrared.is_file():
            pairs, notes = layouts.file_pair(visible, infrared)
            return cls._from_pairs(pairs, Findings(notes=notes), f"{visible} + {infrared}")
        if not (visible.is_dir() and infrared.is_dir()):
            raise ValueError(f"{visible} and {infrared} are a file and a folder: give two folders or two files")
        if split is not None:
            visible_split, infrared_split = layouts.subfolder(visible, split), layouts.subfolder(infrared, split)
            if visible_split is None or infrared_split is None:
                raise ValueError(f"{visible} and {infrared} do not both have a folder {split!r}; leave split out")
            visible, infrared = visible_split, infrared_split
        return cls._from_pairs(*layouts.pair_folders(visible, infrared), f"{visible} + {infrared}")

    @classmethod
    def _open_table(cls, path: str, split: str | None, streaming: bool) -> "PairedDataset":
        """A repository of the Hub, or a folder with Parquet files."""
        from datasets import config, load_dataset

        local = Path(path).is_dir()
        online = local or hub_answers()
        before, config.HF_HUB_OFFLINE = config.HF_HUB_OFFLINE, config.HF_HUB_OFFLINE or not online  # does not try again
        try:
            loaded = load_dataset(path, split=split, streaming=streaming)
        except Exception as error:  # a dozen kinds, from no network to no such split: the cause is chained
            part = "" if split is None else f" with the split {split!r}"
            cause = f"it cannot be opened{part} ({first_line(error).rstrip('.:') if online else NOT_REACHED})"
            if local:
                raise ValueError(f"{path} holds Parquet files, but as a data set {cause}: check them") from error
            advice = "check id, split, network and, for a private set, the login"
            raise ValueError(f"{path!r} is no folder here, and as a data set of the Hub {cause}: {advice}") from error
        finally:
            config.HF_HUB_OFFLINE = before
        if split is None:
            if len(loaded) != 1:
                raise ValueError(f"{path} has the splits {', '.join(map(str, loaded))}: choose one with split=")
            loaded = next(iter(loaded.values()))
        return cls._from_table(loaded, f"{path} ({split or 'only split'})")

    @classmethod
    def _from_pairs(cls, pairs: Sequence[Pair], findings: Findings, description: str) -> "PairedDataset":
        dataset = cls(pairs, description)
        dataset._findings = findings
        if not pairs:
            raise ValueError(f"no pair is left.\n{dataset._report(pairs=0)}")
        return dataset

    @classmethod
    def _from_table(cls, table: Any, description: str) -> "PairedDataset":
        from datasets import Image as ImageFeature
        from datasets import IterableDataset

        if table.column_names is None:  # a stream that has not been looked at yet
            table = table._resolve_features()
        columns = list(table.column_names)
        visible, infrared = layouts.choose_names(columns, description, "column")
        for column in (visible, infrared):
            try:
                # Undecoded: a bad picture then fails when it is read, not while iterating, and the mode stays (16 bit).
                table = table.cast_column(column, ImageFeature(decode=False))
            except (TypeError, ValueError, NotImplementedError) as error:  # pyarrow's errors derive from these
                raise ValueError(f"{description}: column {column!r} does not hold images: {error}") from error
        rows = _StreamRows if isinstance(table, IterableDataset) else _TableRows
        if rows is _StreamRows:  # `load_dataset` adds a decoder to streams from the Hub, which a cast does not remove
            table = table.decode(False)
        dataset = cls(rows(table, visible, infrared, layouts.find_name_column(columns)), description)
        if dataset.length == 0:
            raise ValueError(f"{description}: the dataset has no rows")
        return dataset

    @property
    def length(self) -> int | None:
        """Number of pairs; None when streaming."""
        return len(self._indices) if self._stream is None else None

    def __len__(self) -> int:
        self._refuse_stream("has no length; use .length")
        return len(self._indices)

    def __getitem__(self, index: int | slice) -> Any:
        """The `Pair` at an index, or for a slice a smaller `PairedDataset`."""
        self._refuse_stream("has no index; iterate over it")
        if isinstance(index, slice):
            return self._subset(self._indices[index])
        return self._rows[self._indices[index]]

    def __iter__(self) -> Iterator[Pair]:
        if self._stream is not None:
            yield from self._stream
        else:
            yield from (self._rows[index] for index in self._indices)

    def __repr__(self) -> str:
        return f"PairedDataset({self.description}, pairs={'streamed' if self.length is None else self.length})"

    def shard(self, rank: int, world: int) -> "PairedDataset":
        """The share of process `rank` of `world`: every `world`-th pair, no pair twice, none left out."""
        if not 0 <= rank < world:
            raise ValueError(f"rank is {rank} and world {world}; rank must be in 0 ... world - 1")
        if self._stream is not None:
            return PairedDataset(self._stream.shard(rank, world), self.description)
        return self[rank::world]

    def exclude(self, names: Iterable[str]) -> "PairedDataset":
        """The set without the pairs of these names (for example `report.bad_names`)."""
        self._refuse_stream("is read in one go; skip the names while iterating")
        unwanted = frozenset(names)
        return self._subset([i for i in self._indices if self._rows[i].name not in unwanted])

    def _subset(self, indices: Sequence[int]) -> "PairedDataset":
        subset = PairedDataset(self._rows, self.description)
        subset._indices = indices
        subset._findings = self._findings
        return subset

    def _refuse_stream(self, why: str) -> None:
        if self._stream is not None:
            raise TypeError(f"{self.description} is streamed and {why}, or open it with streaming=False")

    def to_hf(self) -> Any:
        """The set as `datasets.Dataset` (streamed: `IterableDataset`) with the columns name, visible, infrared.

        Files are referred to, not copied; pictures in memory are encoded without loss.
        """
        from datasets import Dataset, Features, Value
        from datasets import Image as ImageFeature

        if self._stream is not None:
            return self._stream.to_hf()
        columns: dict[str, list[Any]] = {"name": [], "visible": [], "infrared": []}
        for pair in self:
            columns["name"].append(pair.name)
            for band, source in pair.bands():
                if isinstance(source, Path):
                    columns[band].append(str(source))
                else:
                    columns[band].append(dict(source) if isinstance(source, Mapping) else load_picture(source))
        features = Features({"name": Value("string"), "visible": ImageFeature(), "infrared": ImageFeature()})
        return Dataset.from_dict(columns, features=features)

    def check(self, *, decode: bool = False, registered: bool = True) -> PairReport:
        """Look for missing partners, ambiguous stems, unequal sizes, unreadable files and duplicates.

        Args:
            decode: False reads headers for the sizes and compares file contents. True decodes every picture: it also
                finds truncated files, and equal pixels in different formats.
            registered: whether the two pictures of a pair must have one size.

        A streamed set is read to its end.
        """
        return self._report(**inspect_pairs(self, decode, registered), notes=tuple(self.notes))

    @property
    def notes(self) -> list[str]:
        """How the files were understood, where that is not obvious."""
        notes = list(self._findings.notes)
        if self._stream is None and EXCHANGED not in notes and looks_exchanged(list(self)):
            notes.append(EXCHANGED)
        return notes

    def left_out(self) -> list[tuple[str, str]]:
        """Files that are in no pair, and why."""
        found = self._findings
        causes = {
            "no infrared partner": found.missing_infrared,
            "no visible partner": found.missing_visible,
            "several files of one name": found.ambiguous,
            "not in the metadata": found.unlisted,
            "no picture that is read": found.left_out,
        }
        return [(name, cause) for cause, names in causes.items() for name in names]

    def find_overlap(self, other: "PairedDataset", *, decode: bool = False) -> tuple[Overlap, ...]:
        """Pictures that are in both sets, for example in a train and a test split. `decode`: see `check`.

        Unreadable files are skipped; `check` reports them.
        """
        theirs: dict[str, list[tuple[str, str]]] = {}
        for name, band, digest in other._digests(decode):
            theirs.setdefault(digest, []).append((name, band))
        return tuple(
            Overlap(name, band, *match)
            for name, band, digest in self._digests(decode)
            for match in theirs.get(digest, ())
        )

    def _digests(self, decode: bool) -> Iterator[tuple[str, str, str]]:
        for pair in self:
            for band, source in pair.bands():
                try:
                    yield pair.name, band, inspect_picture(source, decode, band)[1]
                except READ_ERRORS:
                    continue

    def _report(self, **found: Any) -> PairReport:
        findings = {name: tuple(items) for name, items in asdict(self._findings).items()}
        return PairReport(self.description, **{**findings, **found})


def _are_paths(source: Any) -> bool:
    return isinstance(source, list) and bool(source) and all(isinstance(file, str | os.PathLike) for file in source)


class _TableRows:
    """Rows of a `datasets.Dataset` with two undecoded image columns."""

    def __init__(self, table: Any, visible: str, infrared: str, name: str | None) -> None:
        self.table, self.visible, self.infrared, self.name = table, visible, infrared, name

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: int) -> Pair:
        return self.pair(self.table[index], index)

    def pair(self, row: Mapping[str, Any], index: int) -> Pair:
        """The pictures of a row; an empty cell becomes one that cannot be read, so that iterating goes on."""
        name = None if self.name is None else row[self.name]
        if name is None:
            path = row[self.visible].get("path") if isinstance(row[self.visible], Mapping) else None
            name = PurePosixPath(str(path).split("::")[0]).stem if path else f"{index:06d}"
        empty = {c: {"bytes": b"", "path": f"row {index}, column {c}: empty"} for c in (self.visible, self.infrared)}
        sources = (cell if row[column] is None else row[column] for column, cell in empty.items())
        return Pair(layouts.safe_name(str(name)), *sources)


class _StreamRows(_TableRows):
    """Rows of a `datasets.IterableDataset`; `rank` and `world` keep names made from row numbers distinct."""

    rank, world = 0, 1

    def __iter__(self) -> Iterator[Pair]:
        for number, row in enumerate(self.table):
            yield self.pair(row, number * self.world + self.rank)

    def shard(self, rank: int, world: int) -> "_StreamRows":
        from datasets.distributed import split_dataset_by_node

        if self.world != 1:
            raise ValueError("this stream is a shard already; shard the whole stream once")
        rows = _StreamRows(split_dataset_by_node(self.table, rank, world), self.visible, self.infrared, self.name)
        rows.rank, rows.world = rank, world
        return rows

    def to_hf(self) -> Any:
        from datasets import Image as ImageFeature

        table = self.table
        for column, wanted in ((self.visible, "visible"), (self.infrared, "infrared"), (self.name, "name")):
            if column is not None and column != wanted:
                table = table.rename_column(column, wanted)
        return table.cast_column("visible", ImageFeature()).cast_column("infrared", ImageFeature())
