from fusion_hub import DiffFuseNetPipeline  # noqa: F401
