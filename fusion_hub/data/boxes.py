"""`find_boxes` under its former address, see `fusion_hub.data.annotations`."""

from fusion_hub.data.annotations import find_boxes as find_boxes
