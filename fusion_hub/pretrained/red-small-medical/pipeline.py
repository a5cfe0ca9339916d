from fusion_hub import REDPipeline  # noqa: F401
