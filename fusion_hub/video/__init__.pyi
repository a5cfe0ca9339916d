from .display_range import RangeTracker
from .frames import Frame
from .fusion import Report, fuse_frames, fuse_video
from .pairing import pair_frames
from .sources import Source, open_source, open_sources
from .writers import VIDEO_SUFFIXES, FolderWriter, VideoWriter

__all__ = [
    "VIDEO_SUFFIXES",
    "FolderWriter",
    "Frame",
    "RangeTracker",
    "Report",
    "Source",
    "VideoWriter",
    "fuse_frames",
    "fuse_video",
    "open_source",
    "open_sources",
    "pair_frames",
]
