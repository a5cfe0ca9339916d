from fusion_hub import REDModel  # noqa: F401
