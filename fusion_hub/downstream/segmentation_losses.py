"""Segmentation losses for unbalanced classes: in street scenes nine tenths of the pixels are background."""

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from fusion_hub.data.annotations import IGNORED

WEIGHTINGS = ("none", "median_frequency", "effective_number")


def class_weights(
    labels: Iterable[np.ndarray], classes: int, weighting: str, *, power: float = 1.0, beta: float = 0.999
) -> np.ndarray:
    """A weight for each class `(C,)` float32 whose mean over the pixels of `labels` is 1; 0 for absent classes.

    - `median_frequency` (Eigen and Fergus 2015, arXiv 1411.4734): `median(f) / f_c` with `f_c` the share of class c in
      the pixels of the images that contain it.
    - `effective_number` (Cui et al. 2019, arXiv 1901.05555): `1 / (1 - beta^n_c)`. Pixels of one image are not
      independent samples, so n_c is the number of images that contain the class.
    - `none`: all equal.

    Args:
        labels: label maps, integers below `classes` or `IGNORED`.
        power: the weights are raised to it; below 1 they differ less.
        beta: of `effective_number`.
    """
    # For each class: its pixels, all pixels of the images that contain it, the number of these images.
    pixels, shown, pictures = np.zeros((3, classes))
    for label in labels:
        counts = np.bincount(label[label != IGNORED].ravel(), minlength=classes)
        pixels += counts
        shown += np.where(counts > 0, counts.sum(), 0)
        pictures += counts > 0
    present = pixels > 0
    weights = np.zeros(classes)
    if weighting == "none":
        weights[present] = 1
    elif weighting == "median_frequency":
        frequency = pixels[present] / shown[present]
        weights[present] = np.median(frequency) / frequency
    elif weighting == "effective_number":
        weights[present] = 1 / (1 - beta ** pictures[present])
    else:
        raise ValueError(f"weighting must be one of {', '.join(WEIGHTINGS)}, got {weighting}")
    weights[present] **= power
    if present.any():
        weights /= (weights * pixels).sum() / pixels.sum()
    return weights.astype(np.float32)


def weighted_cross_entropy(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Mean over the pixels of `weight x -log p`, a scalar.

    It divides by the number of pixels and not, as PyTorch does, by the sum of their weights. So the loss of a batch is
    the mean of the losses of its parts, also if these are on several processes.

    Args:
        logits: `(B, C, H, W)` float32.
        labels: `(B, H, W)` int64, below C or `IGNORED`.
        weights: `(C,)`.
    """
    total = torch.nn.functional.cross_entropy(logits, labels, weights, ignore_index=IGNORED, reduction="sum")
    return total / labels.numel()


def lovasz_softmax(logits: Tensor, labels: Tensor) -> Tensor:
    """Lovász-Softmax (Berman et al. 2018, arXiv 1705.08790, eqs. 8 and 11), a scalar in [0, 1].

    A differentiable surrogate of 1 - IoU, averaged over the classes in the labels of the batch; for predictions with
    probabilities 0 and 1 it is equal to it.

    Args:
        logits: `(B, C, H, W)` float32.
        labels: `(B, H, W)` int64, below C or `IGNORED`.
    """
    counted = labels != IGNORED
    probabilities = logits.softmax(1).movedim(1, -1)[counted]  # (P, C)
    truth = labels[counted]
    terms = []
    for index in torch.unique(truth).tolist():
        is_class = (truth == index).float()
        errors, order = (is_class - probabilities[:, index]).abs().sort(descending=True)
        terms.append(errors @ _jaccard_gradient(is_class[order]))
    return torch.stack(terms).mean() if terms else logits.sum() * 0


def _jaccard_gradient(truth: Tensor) -> Tensor:
    """Increase of the Jaccard loss with each further error, largest errors first (their Algorithm 1)."""
    inside = truth.cumsum(0)
    jaccard = 1 - (inside[-1] - inside) / (inside[-1] + (1 - truth).cumsum(0))
    return torch.diff(jaccard, prepend=jaccard.new_zeros(1))
