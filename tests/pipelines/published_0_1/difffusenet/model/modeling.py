from fusion_hub import DiffFuseNetModel  # noqa: F401
