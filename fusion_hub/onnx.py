"""Fusion by ONNX Runtime alone, without PyTorch: the public home of [`FusionSession`]."""

from fusion_hub.pipelines.onnx_session import FusionSession as FusionSession
from fusion_hub.pipelines.onnx_session import SessionOutput as SessionOutput
