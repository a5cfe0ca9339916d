"""The `__call__` of all fusion models: any two images in, one fused image out.

Padding, tiles, batches, noise and progress are handled here; a subclass adds its components and one method that runs
its network on a luminance pair.
"""

import os
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from diffusers.utils import BaseOutput
from torch import Tensor

from fusion_hub import __version__
from fusion_hub.image.luminance import ValueRange, check_range
from fusion_hub.image.pair import PairContext, Register, Rescale, check_output, pair_up
from fusion_hub.image.picture import InputWarning
from fusion_hub.image.processor import FusionImageProcessor
from fusion_hub.image.subject import Subject
from fusion_hub.image.tiling import Window, crop_to, pad_to_multiple, run_tiled, tile_windows
from fusion_hub.models.layers import map_tensors
from fusion_hub.pipelines.batches import read_batches, wrong_model_note
from fusion_hub.pipelines.checkpoints import trained_on
from fusion_hub.pipelines.limits import (
    TileRules,
    check_batch_size,
    check_denoise,
    check_noise,
    check_tile,
    is_whole_number,
)
from fusion_hub.pipelines.loading import PortablePipeline
from fusion_hub.rigs.registration import registration_by
from fusion_hub.rigs.rig import Rig

NOISE_BLOCK = 64  # feature cells

Steps = int | Literal["auto"] | None


@dataclass
class FusionOutput(BaseOutput):
    """Output of a fusion pipeline.

    Attributes:
        images: one fused image for each pair, in the order of the input, each of the size and color of its visible
            image. `output_type="pil"`: list of PIL images. `"np"`: float32 array `(B, H, W, C)` in [0, 1]. `"pt"`:
            float32 tensor `(B, C, H, W)` in [0, 1]. If the images of a batch differ in shape, `"np"` gives a list of
            `(H, W, C)` arrays and `"pt"` a list of `(C, H, W)` tensors. C: 1 gray, 2 gray + alpha, 3 RGB, 4 RGBA.
        intermediates: with `return_intermediates=True` the intermediate results of the network, a
            [`DiffFuseNetOutput`] or [`REDOutput`] of one pair, float32 on the CPU, cropped to the image; else None.
    """

    images: Any
    intermediates: Any = None


class Sampling(NamedTuple):
    """How the diffusion model inside a fusion network is evaluated, as in the call, with one seed for each image."""

    num_inference_steps: Steps
    noise_strength: float
    seeds: tuple[int, ...]
    noise_level: Tensor | None = None
    """Standard deviation of the noise in each whole image, `(2B,)`, visible first; None where the model has no use."""


class Batch(NamedTuple):
    """Preprocessed pairs of one size, `(N, 1, H, W)` each, and their positions in the input."""

    visible: Tensor
    infrared: Tensor
    positions: Sequence[int]
    contexts: Sequence[PairContext]
    seeds: tuple[int, ...]


class StepCounter:
    """The progress bar of one call: an evaluation of the diffusion model for each pair, tile and step.

    The bar opens when the first pair has been read, and only if there is more than one evaluation. Pairs that have not
    been read yet count as if they had the size of the last one that was.

    Args:
        network: the module that runs once in each step.
        open_bar: a pipeline's `progress_bar`.
        num_pairs: in the call.
    """

    def __init__(self, network: torch.nn.Module | None, open_bar: Callable[..., Any], num_pairs: int) -> None:
        self.network, self.open_bar, self.unread = network, open_bar, num_pairs
        self.bar: Any = None
        self.expected = self.pairs = self.steps = self.done = 0
        self.thread = threading.get_ident()

    def __enter__(self) -> "StepCounter":
        self.hook = None if self.network is None else self.network.register_forward_hook(self._end_step)
        return self

    def __exit__(self, *error: object) -> None:
        if self.hook is not None:
            self.hook.remove()
        if self.bar is not None:
            self.bar.close()

    def begin(self, pairs: int, tiles: int, steps: int) -> None:
        """Start a batch of pairs that are fused in so many tiles each."""
        self.pairs, self.steps, self.done = pairs, steps, 0
        self.unread -= pairs
        self.expected += pairs * tiles * steps
        total = self.expected + self.unread * tiles * steps
        if self.bar is None and total > 1:
            self.bar = self.open_bar(total=total)
        elif self.bar is not None and self.bar.total != total:
            self.bar.total = total
            self.bar.refresh()

    def _end_step(self, *_: object) -> None:
        # A compiled network counts whole tiles. Other threads may run the same network for calls of their own.
        if not torch.compiler.is_compiling() and threading.get_ident() == self.thread and self.done < self.steps:
            self.done += 1
            self._advance(1)

    def end_tile(self) -> None:
        """Count the steps of a tile that its network did not run, or not visibly."""
        self._advance(self.steps - self.done)
        self.done = 0

    def _advance(self, steps: int) -> None:
        if self.bar is not None:
            self.bar.update(steps * self.pairs)


class FusionPipeline(PortablePipeline):
    """Base class of the fusion pipelines; `FusionPipeline.from_pretrained` loads any of them.

    A subclass registers a component `model`, sets `image_processor` and implements [`fuse_luminance`], [`check_steps`]
    and `tile_rules`; for the progress bar [`count_steps`] and `step_network`. Of the model this class needs `multiple`
    in pixels.
    """

    model_cpu_offload_seq = "model"  # type: ignore[assignment]  # diffusers declares its default, None
    uses_noise = True
    """Whether the model uses `noise_strength`."""
    model: Any
    image_processor: FusionImageProcessor

    def fuse_luminance(
        self, visible: Tensor, infrared: Tensor, window: Window, sampling: Sampling, return_intermediates: bool = False
    ) -> Any:
        """Fuse one luminance pair.

        Args:
            visible: `(B, 1, h, w)` float32 in [0, 1] on the CPU, a whole padded image or a tile of it.
            infrared: same shape and range.
            window: where in the padded image the tile lies.
            sampling: steps, noise strength and one seed for each image.
            return_intermediates: return the model's output class, which has the image as `fused`.

        Returns:
            `(B, 1, h, w)`, not clamped, any floating dtype and device; or the model's output class.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement fuse_luminance")

    @classmethod
    def check_settings(cls, settings: Mapping[str, Any]) -> None:
        check_range(settings.get("infrared_range", "auto"), "infrared_range")

    def check_steps(self, num_inference_steps: Any) -> None:
        """Raise a `ValueError` that names the value and the limits if the model cannot run so many steps."""
        raise NotImplementedError(f"{type(self).__name__} must implement check_steps")

    def noise_level(self, visible: Tensor, infrared: Tensor, denoise: float | Literal["auto"]) -> Tensor | None:
        """`Sampling.noise_level` of whole images `(B, 1, H, W)`; None for a model that does not remove noise."""
        return None

    def count_steps(self, num_inference_steps: Steps) -> int:
        """Most evaluations of the diffusion model for one tile, for the progress bar."""
        return 1

    @property
    def step_network(self) -> torch.nn.Module | None:
        """The part of the model that runs once in each of these steps; None where there is none."""
        return None

    @property
    def _signature(self) -> str:
        """Program, model and precision, for the metadata of the result."""
        source = str(self.config.get("_name_or_path") or type(self).__name__)
        name = source.replace("\\", "/").rstrip("/").split("/")[-1]
        return f"Fusion Hub {__version__} ({name}, {str(self.model.dtype).removeprefix('torch.')})"

    @property
    def tile_rules(self) -> TileRules:
        """How large images are cut into tiles."""
        raise NotImplementedError(f"{type(self).__name__} must implement tile_rules")

    @torch.no_grad()
    def __call__(
        self,
        visible: Any,
        infrared: Any,
        *,
        num_inference_steps: Steps = None,
        noise_strength: float = 0.0,
        denoise: float | Literal["auto"] = "auto",
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        tile: int | None = None,
        tile_overlap: int | None = None,
        batch_size: int | None = None,
        infrared_range: ValueRange | None = None,
        visible_range: ValueRange | None = None,
        rig: Rig | str | os.PathLike[str] | None = None,
        rescale: Rescale = "none",
        output_type: Literal["pil", "np", "pt"] = "pil",
        return_intermediates: bool = False,
        return_dict: bool = True,
    ) -> FusionOutput:
        """Fuse one pair of registered images, or a list of pairs.

        Args:
            visible: the image that gives color, size and bit depth: path, PIL image, array `(H, W[, C])`, tensor
                `(C, H, W)`; or a list of them, or a batch `(B, H, W, C)` / `(B, C, H, W)`. Pairs may differ in size.
                PET, SPECT and CT go in here.
            infrared: likewise, as many as `visible`, each of the size of its partner. MRI goes in here.
            num_inference_steps: evaluations of the diffusion model. None: the checkpoint's own number, for DiffFuseNet
                1, for RED its `default_denoising_steps`, 1 for the bundled ones. DiffFuseNet: evenly spaced from its
                `inference_timestep` down. RED: 1 to the T it was trained with, or `"auto"`, which stops when a further
                step would change next to nothing.
            noise_strength: scale of the Gaussian noise added to the features, 0 to 1. 0: the output is deterministic.
                RED draws no noise and takes 0 only.
            denoise: how much sensor noise to remove before fusion, 0 to 1; 1 is for noise with a standard deviation of
                a tenth of the range (25 of 255). `"auto"`: as much as each image shows, next to nothing for clean ones.
                For DiffFuseNet models that were trained for it.
            generator: source of the noise; a list has one for each pair. Unused without noise.
            tile: largest side of the tiles in pixels. None: automatic, whole images up to 1536 x 1536 pixels, beyond
                that tiles of up to 768 to 1280; where a RED model's attention or statistics span the whole image, tiles
                of the size it was trained on. 0: never tiles.
            tile_overlap: pixels that neighboring tiles share; None: enough that no pixel of a real picture differs by
                more than a gray level from the whole image. Fewer can leave seams of ten levels and more.
            batch_size: pairs of equal size in one evaluation; None: as many as fit in 1536 x 1536 pixels.
            infrared_range: how infrared values become [0, 1]: `"auto"`, `"dtype"`, `"minmax"`, `"percentile"` or
                `(low, high)`, see [`FusionImageProcessor`]; None: the pipeline's own.
            visible_range: the same for the visible image; None: its full scale, and 10, 12 or 14 bits recognized in
                16-bit samples.
            rig: for pairs that are not registered and may differ in size: the [`fusion_hub.rigs.Rig`] of two fixed
                cameras or its file, or `"auto"`, which aligns each pair by itself. The result has the size of the
                visible image; pixels that the infrared camera does not see are those of the visible image, joined
                softly. None: the pairs are registered.
            rescale: `"none"`; `"minmax"`, which stretches each fused luminance to [0, 1]; or `"both"`, which fuses once
                and returns for each pair a tuple of both pictures, with `output_type="pil"` only.
            output_type: `"pil"`, `"np"` or `"pt"`.
            return_intermediates: also return the intermediate results of the network, for one pair that is fused whole;
                the fused image stays the same up to rounding. [`fusion_hub.explain`] shows them as pictures.
            return_dict: False returns the tuple `(images,)`, or `(images, intermediates)`.

        Returns:
            [`FusionOutput`], or a tuple with `return_dict=False`.

        Raises:
            TypeError, ValueError: for arguments or images that cannot be used; the message names the argument, its
                value and the fix. [`fusion_hub.rigs.RigError`], a ValueError: for a rig that does not fit the images,
                and pairs that `rig="auto"` cannot align with confidence.

        Warns:
            InputWarning: an image that looks wrong: nearly constant, clipped, in false colors; a pair that shows
                something else than the model was trained on.

        Examples:
            >>> from fusion_hub import DiffFuseNetPipeline
            >>> pipe = DiffFuseNetPipeline.from_pretrained("difffusenet-msrs")
            >>> visible, infrared = np.eye(32, dtype=np.uint8) * 255, np.arange(32 * 32).reshape(32, 32) / 1023
            >>> fused = pipe(visible, infrared).images[0]
            >>> fused.mode, fused.size
            ('L', (32, 32))
        """
        # 1. Check the inputs. Draw one seed for each pair, in order, so that batches do not change the noise.
        pairs = pair_up(visible, infrared)
        self.check_inputs(
            len(pairs),
            num_inference_steps,
            noise_strength,
            generator,
            tile,
            tile_overlap,
            batch_size,
            rescale,
            output_type,
            return_intermediates,
            denoise,
        )
        register = registration_by(rig)
        seeds = draw_seeds(generator, len(pairs)) if noise_strength > 0 else [0] * len(pairs)

        images: list[Any] = [None] * len(pairs)
        inner: Any = None
        steps = self.count_steps(num_inference_steps)
        with StepCounter(self.step_network, self.progress_bar, len(pairs)) as counter:
            # 2. Read pairs as luminance in [0, 1] and collect those of one size: 2 x [N, 1, H, W].
            for batch in self._batches(pairs, seeds, batch_size, infrared_range, visible_range, register):
                for note in (note for context in batch.contexts for note in context.notes):
                    warnings.warn(note, InputWarning, stacklevel=3)
                level = self.noise_level(batch.visible, batch.infrared, denoise)
                sampling = Sampling(num_inference_steps, noise_strength, batch.seeds, level)
                positions, contexts = batch.positions, batch.contexts

                # 3. Pad by reflection to multiples of the network's pooling: [N, 1, H, W] -> [N, 1, H', W'].
                seen, size = pad_to_multiple(batch.visible, self.model.multiple)
                warm, _ = pad_to_multiple(batch.infrared, self.model.multiple)
                del batch
                window = Window(0, 0, *seen.shape[-2:])
                rules = self.tile_rules
                side, overlap = rules.choose(window.height, window.width, tile, tile_overlap)

                # 4. Diffuse and fuse, whole or in tiles: 2 x [N, 1, H', W'] -> [N, 1, H', W'].
                grid = rules.geometry.grid
                tiles = len(tile_windows(window.height, window.width, side, overlap, grid)) if side else 1
                counter.begin(len(positions), tiles, steps)
                fuse = partial(self._fuse, sampling=sampling, counter=counter)
                if return_intermediates and side > 0:
                    raise ValueError(
                        f"return_intermediates=True was given for an image of {size[1]}x{size[0]} (width x height), "
                        f"which is fused in tiles of {side} pixels, each with its own features: give a smaller image, "
                        "or tile=0 if the memory is enough to fuse it whole"
                    )
                if return_intermediates:
                    inner = self.fuse_luminance(seen, warm, window, sampling, return_intermediates=True)
                    inner = map_tensors(inner, partial(_crop_cells, size=size, padded=window.height))
                    fused = inner.fused
                    counter.end_tile()
                else:
                    fused = self._whole_or_tiled(fuse, seen, warm, side, overlap)
                del seen, warm  # a very large pair is no longer needed

                # 5. Crop the padding: [N, 1, H', W'] -> [N, 1, H, W].
                fused = crop_to(fused, size)

                # 6. Restore the color, alpha and bit depth of the visible images: N x [H, W, C].
                outputs = self.image_processor.postprocess(fused, contexts, output_type=output_type, rescale=rescale)
                for position, context, image in zip(positions, contexts, outputs, strict=True):
                    images[position] = image
                    for picture in (image if rescale == "both" else (image,)) if output_type == "pil" else ():
                        picture.info.update(fusion_hub=self._signature, notes=context.notes)

        # 7. Offload all models; join arrays of one shape: [B, H, W, C] or [B, C, H, W].
        self.maybe_free_model_hooks()
        output = FusionOutput(images=_stack(images, output_type), intermediates=inner)
        return output if return_dict else output.to_tuple()  # type: ignore[return-value]  # typed for the default

    @torch.no_grad()
    def fuse_planes(
        self,
        visible: Tensor,
        infrared: Tensor,
        *,
        noise_level: Tensor | None = None,
        num_inference_steps: Steps = None,
        tile: int | None = None,
    ) -> Tensor:
        """Fuse luminance as it is, such as slices of volumes: nothing is read, judged, scaled or rounded.

        Args:
            visible, infrared: `(N, 1, H, W)` float32 in [0, 1] on the CPU.
            noise_level: as [`noise_level`] gives it for these planes.
            num_inference_steps, tile: as in the call.

        Returns:
            `(N, 1, H, W)` float32 in [0, 1] on the CPU.
        """
        sampling = Sampling(num_inference_steps, 0.0, (0,) * len(visible), noise_level)
        seen, size = pad_to_multiple(visible, self.model.multiple)
        warm, _ = pad_to_multiple(infrared, self.model.multiple)
        side, overlap = self.tile_rules.choose(seen.shape[-2], seen.shape[-1], tile)

        def fuse(seen: Tensor, warm: Tensor, window: Window) -> Tensor:
            return self.fuse_luminance(seen, warm, window, sampling).to("cpu", torch.float32)

        return crop_to(self._whole_or_tiled(fuse, seen, warm, side, overlap), size).clamp(0, 1)

    def _whole_or_tiled(
        self, fuse: Callable[[Tensor, Tensor, Window], Tensor], seen: Tensor, warm: Tensor, side: int, overlap: int
    ) -> Tensor:
        """Fuse padded planes in tiles of `side` pixels, or whole if it is 0."""
        if side == 0:
            return fuse(seen, warm, Window(0, 0, *seen.shape[-2:]))
        rules = self.tile_rules
        margin = rules.margin(side, overlap)
        return run_tiled(fuse, seen, warm, tile=side, overlap=overlap, multiple=rules.geometry.grid, margin=margin)

    def check_inputs(
        self,
        num_pairs: int,
        num_inference_steps: Steps,
        noise_strength: float,
        generator: torch.Generator | Sequence[torch.Generator] | None,
        tile: int | None,
        tile_overlap: int | None,
        batch_size: int | None,
        rescale: str,
        output_type: str,
        return_intermediates: bool = False,
        denoise: float | Literal["auto"] = "auto",
    ) -> None:
        """Raise an error that names the argument, the value and the fix, before any work is done."""
        self.check_steps(num_inference_steps)
        check_noise(noise_strength, self.uses_noise)
        check_denoise(denoise, self.model.config)
        several = isinstance(generator, list | tuple)
        generators: Sequence[Any] = generator if several else [generator]  # type: ignore[assignment]
        if generator is not None and not all(isinstance(one, torch.Generator) for one in generators):
            raise TypeError(f"generator={generator!r} must be a torch.Generator, a list of them, or None")
        if several and len(generators) != num_pairs:
            count = f"{len(generators)} for {num_pairs} pair(s)"
            raise ValueError(f"generator is a list of {count}: give one for each pair, or a single one")
        check_batch_size(batch_size)
        check_output(output_type, rescale)
        if return_intermediates and num_pairs > 1:
            raise ValueError(
                f"return_intermediates=True was given for {num_pairs} pairs: they would fill the memory, call the "
                "pipeline for one pair at a time"
            )
        rules = self.tile_rules
        check_tile(tile, rules, tile_overlap)
        grid = rules.geometry.grid
        side = tile // grid * grid if tile else rules.automatic_side
        if tile_overlap is not None and (not is_whole_number(tile_overlap) or not 0 <= tile_overlap < side // 2):
            raise ValueError(
                f"tile_overlap={tile_overlap!r} must be a whole number from 0 to {side // 2 - 1}, less than half "
                f"of the tile of {side} pixels"
            )

    @cached_property
    def _trained_on(self) -> Subject | None:
        source = self.config.get("_name_or_path")
        return trained_on(Path(source)) if source else None

    def wrong_model_note(self, visible: Any, infrared: Any) -> str | None:
        """The warning that a call would give if one pair shows something else than the model was trained on."""
        *planes, context = self.image_processor.read_pair(visible, infrared)
        return wrong_model_note(self._trained_on, (visible, infrared), planes[0], planes[1], context)

    def _fuse(
        self, visible: Tensor, infrared: Tensor, window: Window, sampling: Sampling, counter: StepCounter
    ) -> Tensor:
        fused = self.fuse_luminance(visible, infrared, window, sampling).to("cpu", torch.float32)
        counter.end_tile()
        return fused

    def _batches(
        self,
        pairs: Sequence[tuple[Any, Any]],
        seeds: Sequence[int],
        batch_size: int | None,
        infrared_range: ValueRange | None = None,
        visible_range: ValueRange | None = None,
        register: Register | None = None,
    ) -> Iterator[Batch]:
        """Preprocess pair by pair and yield batches of one size, so that few pairs are in memory at a time."""
        rules: dict[str, Any] = {"infrared_range": infrared_range, "visible_range": visible_range, "register": register}
        read = partial(self.image_processor.read_pair, **rules)
        for visible, infrared, positions, contexts in read_batches(pairs, read, batch_size, self._trained_on):
            planes = torch.from_numpy(visible), torch.from_numpy(infrared)
            yield Batch(*planes, positions, contexts, tuple(seeds[position] for position in positions))


def draw_seeds(generator: torch.Generator | Sequence[torch.Generator] | None, count: int) -> list[int]:
    """One seed for each image: from its own generator, or in order from a shared one (None: torch's global one)."""
    generators = [generator] * count if generator is None or isinstance(generator, torch.Generator) else generator
    devices = ["cpu" if source is None else source.device for source in generators]
    return [int(torch.randint(2**62, (1,), generator=g, device=d)) for g, d in zip(generators, devices, strict=True)]


def block_noise(
    seed: int, stream: int, channels: int, top: int, left: int, height: int, width: int, block: int = NOISE_BLOCK
) -> Tensor:
    """Unit Gaussian noise `(channels, height, width)` of one window of an endless plane, float32 on the CPU.

    The window is in feature cells. The plane, number `stream` of an image, is made of square blocks, each seeded by its
    position: each cell has the same noise in every window, so that tiled runs get the noise of the whole image.
    """
    size = (channels, block, block)
    plane = [
        [
            np.random.default_rng((seed, stream, row, column)).standard_normal(size, dtype=np.float32)
            for column in range(left // block, (left + width - 1) // block + 1)
        ]
        for row in range(top // block, (top + height - 1) // block + 1)
    ]
    y, x = top % block, left % block
    return torch.from_numpy(np.block(plane)[:, y : y + height, x : x + width])


def pair_noise(seeds: Sequence[int], channels: int, window: Window, patch: int) -> Tensor:
    """Noise for the features of a batch of pairs: `(2B, channels, h / patch, w / patch)`, all visible images first."""
    top, left, height, width = (value // patch for value in (window.top, window.left, window.height, window.width))
    order = [(seed, stream) for stream in (0, 1) for seed in seeds]
    return torch.stack([block_noise(*plane, channels, top, left, height, width) for plane in order])


def _stack(images: list[Any], output_type: str) -> Any:
    """A batch array or tensor where all shapes agree, else the list."""
    if output_type == "pil" or len({image.shape for image in images}) > 1:
        return images
    if len(images) == 1:
        return images[0][None]  # a view: a very large image is not copied
    return np.stack(images) if output_type == "np" else torch.stack(images)


def _crop_cells(tensor: Tensor, size: tuple[int, int], padded: int) -> Tensor:
    """The cells that show an image of `size`, as float32 on the CPU; the last ones may reach beyond it."""
    if tensor.ndim < 4:  # a number for each image
        return tensor.to("cpu", torch.float32)
    cell = padded // tensor.shape[-2]
    return crop_to(tensor, (-(-size[0] // cell), -(-size[1] // cell))).to("cpu", torch.float32)
