"""Pairs of one size, read one after the other and collected into batches of arrays."""

import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from fusion_hub.image.pair import PairContext
from fusion_hub.image.subject import Subject, find_subject
from fusion_hub.pipelines.checkpoints import RECOMMENDED
from fusion_hub.pipelines.limits import WHOLE_IMAGE_LIMIT

MAX_WAITING = 16  # preprocessed pairs that wait for others of their size


class PlaneBatch(NamedTuple):
    """Luminance of pairs of one size, `(N, 1, H, W)` float32 each, and their positions in the input."""

    visible: np.ndarray
    infrared: np.ndarray
    positions: Sequence[int]
    contexts: Sequence[PairContext]


def read_batches(
    pairs: Sequence[tuple[Any, Any]],
    read: Callable[[Any, Any], tuple[np.ndarray, np.ndarray, PairContext]],
    batch_size: int | None,
    trained_on: Subject | None,
) -> Iterator[PlaneBatch]:
    """Read pair by pair and yield batches of one size, so that few pairs are in memory at a time.

    Args:
        pairs: of images.
        read: gives the planes `(H, W)` of a pair and its context.
        batch_size: largest number of pairs in a batch; None: as many as fit in `WHOLE_IMAGE_LIMIT`.
        trained_on: what the model was trained on, for the notes of pairs that show something else.
    """
    waiting: dict[tuple[int, ...], list[tuple[int, np.ndarray, np.ndarray, PairContext]]] = defaultdict(list)

    def batch(kind: tuple[int, ...]) -> PlaneBatch:
        positions, visible, infrared, contexts = zip(*waiting.pop(kind), strict=True)
        # One large image is not copied.
        seen, warm = (
            planes[0][None, None] if len(planes) == 1 else np.stack(planes)[:, None] for planes in (visible, infrared)
        )
        return PlaneBatch(seen, warm, positions, contexts)

    for position, pair in enumerate(pairs):
        try:
            visible, infrared, context = read(*pair)
        except (TypeError, ValueError, OSError) as error:
            if len(pairs) > 1:
                error.add_note(f"This is pair {position} of {len(pairs)}.")
            raise
        if note := wrong_model_note(trained_on, pair, visible, infrared, context):
            context = replace(context, notes=(*context.notes, note))
        # Of one size and one number of channels, so that the results can be one array.
        kind = (*visible.shape, context.channels)
        full = batch_size or max(1, WHOLE_IMAGE_LIMIT // visible.size)
        waiting[kind].append((position, visible, infrared, context))
        del visible, infrared
        if len(waiting[kind]) >= full:
            yield batch(kind)
        elif sum(map(len, waiting.values())) >= MAX_WAITING:
            yield batch(max(waiting, key=lambda kind: len(waiting[kind])))
    for kind in list(waiting):
        yield batch(kind)


def wrong_model_note(
    trained_on: Subject | None,
    pair: tuple[Any, Any],
    visible: np.ndarray,
    infrared: np.ndarray,
    context: PairContext,
) -> str | None:
    """A sentence if the pair shows scans and the model was trained on streets, or the other way round."""
    if trained_on is None:
        return None
    found = find_subject([path_of(image) for image in pair], visible, infrared, colored=context.rgb is not None)
    if found is None or found.subject == trained_on:
        return None
    shows, other = ("medical scans", "streets") if found.subject == "medical" else ("a street", "medical scans")
    return (
        f"the pair seems to show {shows} ({found.because}), but this model was trained on {other}: use "
        f"{RECOMMENDED[found.subject]}"
    )


def path_of(image: Any) -> str | None:
    """The path of a file, an encoded image, an opened PIL image or a channel of a file."""
    path = image.get("path") if isinstance(image, Mapping) else image
    for name in ("filename", "file"):
        path = getattr(path, name, None) or path
    return os.fsdecode(path) if isinstance(path, str | os.PathLike) else None
