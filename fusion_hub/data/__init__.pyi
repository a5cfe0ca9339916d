from .annotations import (
    IGNORED,
    BoxedPair,
    Boxes,
    LabeledPair,
    find_boxes,
    find_labels,
    iou,
    known_classes,
    same_class,
    union_boxes,
)
from .crops import CropSource, PairCrops
from .degradations import Degraded, degrade
from .layouts import METADATA_FILES, SPLIT_NAMES, file_pair, find_splits, holds_parquet, safe_name
from .paired_dataset import PairedDataset
from .pairs import READ_ERRORS, ImageSource, Overlap, Pair, PairReport, inspect_picture, load_picture, some, source_file
from .samples import SAMPLE_FOLDERS, SamplePair, sample_pairs, write_samples
from .synthetic import GeneratedPair, generate_scene, generated_pairs

__all__ = [
    "IGNORED",
    "METADATA_FILES",
    "READ_ERRORS",
    "SAMPLE_FOLDERS",
    "SPLIT_NAMES",
    "BoxedPair",
    "Boxes",
    "CropSource",
    "Degraded",
    "GeneratedPair",
    "ImageSource",
    "LabeledPair",
    "Overlap",
    "Pair",
    "PairCrops",
    "PairReport",
    "PairedDataset",
    "SamplePair",
    "degrade",
    "file_pair",
    "find_boxes",
    "find_labels",
    "find_splits",
    "generate_scene",
    "generated_pairs",
    "holds_parquet",
    "inspect_picture",
    "iou",
    "known_classes",
    "load_picture",
    "safe_name",
    "same_class",
    "sample_pairs",
    "some",
    "source_file",
    "union_boxes",
    "write_samples",
]
