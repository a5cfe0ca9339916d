"""Detection and segmentation on visible, infrared and fused images: inference, scores and training.

    from fusion_hub.downstream import OnnxDetector, compare, draw_detections

    detector = OnnxDetector.from_pretrained("yolox_nano.onnx")
    fused, visible, infrared = (detector.detect(image, threshold=0.1) for image in images)
    comparison = compare(fused, visible, infrared, threshold=0.3)
    print(comparison.sentence)
    draw_detections(images[0], fused.above(0.3), emphasise=comparison.only_fused).save("found.png")

Detectors: YOLO files in ONNX, and `transformers` detectors. Segmentation: SegFormer. Weights are given as a path or a
Hub id. `pip install "fusion-hub[downstream]"` installs both engines.

Public names are listed in `__init__.pyi` and imported on first use.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
