"""EDFD, explicit feature decoupling: what both sensors saw, and what only one of them saw.

After the published description of DiffFuseNet (Wang et al., Pattern Recognition 180, 2026, 114259).
"""

import torch
from torch import Tensor, nn


class FeatureDecoupling(nn.Module):
    """Cross-modality shared features (CMSF) and single-modality specific features (SMSF).

    F_CMSF   = M_c([F_V, F_I])
    F_SMSF^m = M_m(F_m - F_CMSF),  m in {V, I}
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.common = nn.Sequential(
            nn.Conv2d(2 * channels, channels, 1), nn.GELU(), nn.Conv2d(channels, channels, 3, padding=1)
        )
        self.visible = self._specific(channels)
        self.infrared = self._specific(channels)

    @staticmethod
    def _specific(channels: int) -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), nn.GELU(), nn.Conv2d(channels, channels, 1))

    def forward(self, visible: Tensor, infrared: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Split two feature maps.

        Args:
            visible: `(B, C, H, W)` features of the visible image.
            infrared: `(B, C, H, W)` features of the infrared image.

        Returns:
            Shared, visible-specific and infrared-specific features, each `(B, C, H, W)`.
        """
        shared = self.common(torch.cat([visible, infrared], dim=1))
        return shared, self.visible(visible - shared), self.infrared(infrared - shared)
