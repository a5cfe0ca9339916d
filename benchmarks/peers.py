"""Networks that a user might pick instead of ours, as architectures only, to time them beside ours.

Each is written from its paper. The repository named with it settles what the paper leaves open. Parameters are random,
since the time does not depend on them. All take `(B, 1, H, W)` visible and infrared luminance in [0, 1] and return one
image of that size. Layers that only training needs are left out. Activations work in place, and layer norms are torch's
operator, which is at least as quick as the published code.

TC-MoA (Zhu, Sun, Cao, Hu: CVPR 2024) is left out. It doubles the size of its input and runs a ViT-Large over both
images, about 6 TFLOP for 640x480 by arithmetic, five times the largest network here. Its repository (YangSun22/TC-MoA)
has several configurations of windows and shifts, and it was not settled which one gave the published results.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from peers_attention import CDDFuse, SwinFusion
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


@dataclass(frozen=True)
class Peer:
    """A network and what is known of it.

    Attributes:
        build: makes the network with random parameters.
        paper: authors, title, venue.
        repository: the authors' code on GitHub, with the commit that settled what the paper leaves open.
        published: parameters of the published weights or, where they are not at hand, of the repository's modules.
        unused: those of `published` that do not take part in fusing a pair, and which our network does not have.
        gflops: of the repository's code for a 640x480 pair, 2 for a multiply-add.
        note: what `unused` are, and where paper and repository differ.
    """

    build: Callable[[], nn.Module]
    paper: str
    repository: str
    published: int
    gflops: float
    unused: int = 0
    note: str = ""


def conv(
    inputs: int,
    outputs: int,
    side: int = 3,
    activation: nn.Module | None = None,
    *,
    norm: bool = False,
    bias: bool = True,
    padding: Literal["zeros", "reflect", "replicate"] = "zeros",
) -> nn.Sequential:
    """A convolution that keeps the size, then batch normalization and an activation, where there are any."""
    layers = nn.Sequential(nn.Conv2d(inputs, outputs, side, padding=side // 2, bias=bias, padding_mode=padding))
    if norm:
        layers.append(nn.BatchNorm2d(outputs))
    if activation is not None:
        layers.append(activation)
    return layers


def leaky(slope: float) -> nn.LeakyReLU:
    """Leaky ReLU in place."""
    return nn.LeakyReLU(slope, inplace=True)


def fold_batch_norms(network: nn.Module) -> nn.Module:
    """Batch normalization becomes part of the convolution before it, everywhere in a network in eval mode."""
    for layers in network.modules():
        if isinstance(layers, nn.Sequential) and len(layers) > 1 and isinstance(layers[1], nn.BatchNorm2d):
            layers[0] = fuse_conv_bn_eval(layers[0], layers[1])  # type: ignore[type-var]  # a Conv2d
            del layers[1]
    return network


class SDNet(nn.Module):
    """The squeeze network; decomposition, its inverse, is for training only."""

    def __init__(self) -> None:
        super().__init__()
        self.visible, self.infrared = (
            nn.ModuleList(conv(inputs, 16, side, leaky(0.2)) for inputs, side in ((1, 5), (16, 3), (32, 3), (48, 3)))
            for _ in range(2)
        )
        self.fuse = conv(128, 1, 1, nn.Tanh())

    def forward(self, visible: Tensor, infrared: Tensor) -> Tensor:
        """Four densely connected layers for each image, then all their features to one image."""
        features = []
        for image, layers in ((infrared, self.infrared), (visible, self.visible)):
            outputs = [layers[0](image)]
            for layer in layers[1:]:
                outputs.append(layer(torch.cat(outputs, dim=1)))
            features += outputs
        return self.fuse(torch.cat(features, dim=1))


class IFCNN(nn.Module):
    """Features of both images by shared layers, their maximum, two layers more; three equal channels stand for gray."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = conv(3, 64, 7, bias=False, padding="replicate")  # the first layer of ResNet-101
        self.conv2, self.conv3 = (
            conv(64, 64, 3, nn.ReLU(inplace=True), norm=True, bias=False, padding="replicate") for _ in range(2)
        )
        self.conv4 = conv(64, 3, 1)

    def forward(self, visible: Tensor, infrared: Tensor) -> Tensor:
        """The mean of the three channels."""
        features = [self.conv2(self.conv1(image.repeat(1, 3, 1, 1))) for image in (visible, infrared)]
        return self.conv4(self.conv3(torch.maximum(*features))).mean(dim=1, keepdim=True)


class U2Fusion(nn.Module):
    """A DenseNet on both images side by side, then four layers."""

    def __init__(self, width: int = 44) -> None:
        super().__init__()
        self.dense = nn.ModuleList(
            conv(inputs, width, 3, leaky(0.2), padding="reflect") for inputs in (2, *range(width, 6 * width, width))
        )
        widths = (6 * width, 128, 64, 32)
        self.decoder = nn.Sequential(
            *(conv(a, b, 3, leaky(0.2), padding="reflect") for a, b in pairwise(widths)),
            conv(32, 1, 3, nn.Tanh(), padding="reflect"),
        )

    def forward(self, visible: Tensor, infrared: Tensor) -> Tensor:
        """Every layer of the encoder sees the outputs of all before it, but not the images."""
        x = self.dense[0](torch.cat([visible, infrared], dim=1))
        for layer in self.dense[1:]:
            x = torch.cat([layer(x), x], dim=1)
        return self.decoder(x) / 2 + 0.5


class GradientResidualDense(nn.Module):
    """SeAFusion's gradient residual dense block: two densely connected layers beside a Sobel gradient."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.dense = nn.ModuleList([conv(inputs, inputs, 3, leaky(0.2)), conv(2 * inputs, inputs, 3, leaky(0.2))])
        self.main, self.gradient = conv(3 * inputs, outputs, 1), conv(inputs, outputs, 1)
        sobel = torch.tensor([[1.0, 0.0, -1.0], [2.0, 0.0, -2.0], [1.0, 0.0, -1.0]])
        self.sobel = nn.ParameterList([kernel.expand(inputs, 1, 3, 3).clone() for kernel in (sobel, sobel.T)])

    def forward(self, x: Tensor) -> Tensor:
        """`(B, inputs, H, W)` to `(B, outputs, H, W)`."""
        dense = x
        for layer in self.dense:
            dense = torch.cat([dense, layer(dense)], dim=1)
        along, across = (F.conv2d(x, kernel, padding=1, groups=x.shape[1]).abs() for kernel in self.sobel)
        return F.leaky_relu(self.main(dense) + self.gradient(along + across), 0.1)


class SeAFusion(nn.Module):
    """Two gradient residual dense blocks for each image, then four layers."""

    def __init__(self) -> None:
        super().__init__()
        self.visible, self.infrared = (
            nn.Sequential(conv(1, 16, 3, leaky(0.2)), GradientResidualDense(16, 32), GradientResidualDense(32, 48))
            for _ in range(2)
        )
        widths = (96, 64, 32, 16)
        self.decoder = nn.Sequential(
            *(conv(a, b, 3, leaky(0.2)) for a, b in pairwise(widths)), conv(16, 1, 3, nn.Tanh())
        )

    def forward(self, visible: Tensor, infrared: Tensor) -> Tensor:
        """Features side by side to one image."""
        features = torch.cat([self.visible(visible), self.infrared(infrared)], dim=1)
        return self.decoder(features) / 2 + 0.5


class SAGE(nn.Module):
    """The distilled network that fuses without the Segment Anything Model: a U-Net of three levels of equal width."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()

        def stage(inputs: int) -> nn.Sequential:
            return nn.Sequential(*(conv(c, width, 3, leaky(0.01), norm=True) for c in (inputs, width, width)))

        self.down = nn.ModuleList(stage(inputs) for inputs in (2, width, width))
        self.join = nn.ModuleList(conv(2 * width, width, 1, leaky(0.01), norm=True) for _ in range(2))
        self.up = nn.ModuleList(stage(width) for _ in range(2))
        self.out = conv(width, 1, 3, nn.Tanh())

    def forward(self, visible: Tensor, infrared: Tensor) -> Tensor:
        """Two levels down, and up again with skip connections."""
        full = self.down[0](torch.cat([visible, infrared], dim=1))
        half = self.down[1](F.max_pool2d(full, 2))
        x = self.down[2](F.max_pool2d(half, 2))
        for skip, join, stage in zip((half, full), self.join, self.up, strict=True):
            x = F.interpolate(x, size=skip.shape[-2:], mode="bilinear", align_corners=False)
            x = stage(join(torch.cat([x, skip], dim=1)))
        return self.out(x)


PEERS = {
    "SDNet": Peer(
        SDNet,
        "Zhang, Ma: SDNet: A Versatile Squeeze-and-Decomposition Network for Real-Time Image Fusion. IJCV 129, 2021",
        "HaoZhang1018/SDNet bf6a2ee",
        published=67_091,
        unused=38_386,
        gflops=17.6,
        note="tables of other papers count all 0.067 M; 0.038 M of them are the decomposition, for training only",
    ),
    "IFCNN": Peer(
        IFCNN,
        "Zhang, Liu, Sun, et al.: IFCNN: A General Image Fusion Framework Based on CNN. Information Fusion 54, 2020",
        "uzeful/IFCNN 8fe59c2",
        published=83_587,
        gflops=79.6,
    ),
    "U2Fusion": Peer(
        U2Fusion,
        "Xu, Ma, Jiang, Guo, Ling: U2Fusion: A Unified Unsupervised Image Fusion Network. TPAMI 44, 2022",
        "hanna-xu/U2Fusion 0a58821",
        published=659_217,
        gflops=404.7,
    ),
    "SeAFusion": Peer(
        SeAFusion,
        "Tang, Yuan, Ma: Image Fusion in the Loop of High-Level Vision Tasks. Information Fusion 82, 2022",
        "Linfeng-Tang/VIF-Benchmark 23f2e51",
        published=166_883,
        unused=226,
        gflops=102.0,
        note="the repository's batch norms are never applied; its fixed Sobel kernels count as parameters",
    ),
    "SAGE": Peer(
        SAGE,
        "Wu, Liu, Fu, et al.: Every SAM Drop Counts: Embracing Semantic Priors for Multi-Modality Image Fusion and "
        "Beyond. CVPR 2025",
        "RollingPlain/SAGE_IVIF 377fdbe",
        published=135_617,
        gflops=40.0,
        note="the README draws the small network as dense blocks; the published weights are those of this U-Net",
    ),
    "CDDFuse": Peer(
        CDDFuse,
        "Zhao, Bai, Zhang, et al.: CDDFuse: Correlation-Driven Dual-Branch Feature Decomposition for Multi-Modality "
        "Image Fusion. CVPR 2023",
        "Zhaozixiang1228/MMIF-CDDFuse fd8da1f",
        published=1_188_272,
        gflops=1104.9,
    ),
    "SwinFusion": Peer(
        SwinFusion,
        "Ma, Tang, Fan, et al.: SwinFusion: Cross-domain Long-range Learning for General Image Fusion via Swin "
        "Transformer. IEEE/CAA JAS 9, 2022",
        "Linfeng-Tang/SwinFusion ceeec3f",
        published=973_681,
        unused=8_430,
        gflops=700.1,
        note="the repository has first layers for the infrared image that it does not use",
    ),
}
"""Peers by name, in the order of the table."""
