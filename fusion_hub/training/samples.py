"""Training samples by number: which process gets which, in what order, with what noise.

A number identifies a sample: its crop, its augmentation and its noise are functions of the seed and the number.
"""

import signal
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from fusion_hub.training.config import TrainingConfig

if TYPE_CHECKING:
    from accelerate import Accelerator

Batch = dict[str, Tensor]


class CropSampler(Protocol):
    """Training samples by number, such as `fusion_hub.data.PairCrops`.

    It may have `sets`, one sequence for each source of the config, whose lengths go into the run's report.
    """

    def sample(self, number: int, crop_size: int) -> Batch:
        """Tensors by name, such as `visible` and `infrared` `(1, crop_size, crop_size)`: functions of the number alone.

        `sample`, int64, is the number.
        """
        ...


def mixed_seed(*numbers: int) -> int:
    """A 64-bit seed from integers of at least 0; different ones give unrelated seeds."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])


def sample_noise(
    seed: int, samples: Tensor, shape: Sequence[int], *, stream: int = 0, device: torch.device | str = "cpu"
) -> Tensor:
    """Normal noise `(B, *shape)` float32, for each of `(B,)` samples from `(seed, its number, stream)` alone.

    `stream` separates several random tensors of one sample. A CPU and a GPU generate different numbers.
    """
    noise = torch.empty(len(samples), *shape, device=device)
    for one, number in zip(noise, samples.tolist(), strict=True):
        one.normal_(generator=torch.Generator(device).manual_seed(mixed_seed(seed, number, stream)))
    return noise


class _Crops(Dataset[Batch]):
    """Samples of one crop size; an index is a sample number."""

    def __init__(self, crops: CropSampler, crop_size: int) -> None:
        self.crops, self.crop_size = crops, crop_size

    def __getitem__(self, number: int) -> Batch:
        return self.crops.sample(number, self.crop_size)


def batches(crops: CropSampler, config: TrainingConfig, accelerator: "Accelerator", start: int) -> Iterator[Batch]:
    """This process's part of every batch, from step `start` to the end; accumulated parts one after the other.

    Everything is on the accelerator's device except `sample`, which stays on the CPU: reading numbers from a GPU means
    waiting for all its work.
    """
    late, sizes = max(config.late_start, start), (config.batch_size, config.crop_size)
    late_sizes = config.late_batch_size or config.batch_size, config.late_crop_size or config.crop_size
    for first, end, (batch_size, crop_size) in ((start, late, sizes), (late, config.max_steps, late_sizes)):
        if first == end:
            continue
        loader = DataLoader(
            _Crops(crops, crop_size),
            batch_size=batch_size // config.gradient_accumulation_steps,
            sampler=range(config.samples_before(first), config.samples_before(end)),  # the samples are random already
            num_workers=config.num_workers,
            pin_memory=accelerator.device.type == "cuda",
            worker_init_fn=_ignore_interrupt,
        )
        for batch in accelerator.prepare_data_loader(loader, device_placement=False):
            yield {
                name: tensor if name == "sample" else tensor.to(accelerator.device, non_blocking=True)
                for name, tensor in batch.items()
            }


def _ignore_interrupt(_: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches loader processes too; they end with their parent
