"""Reads one volume in a process of its own: a damaged file can crash the compiled code that decodes it.

    python space/volume_reader.py '{"place": ..., "series": ..., "modality": ..., "max_voxels": ..., "target": ...}'

It writes `values.npy` and `volume.json` to the folder `target`. A refusal of the library is the `refused` of that file.
"""

import json
import sys
import warnings
from contextlib import suppress
from pathlib import Path

import numpy as np

from fusion_hub import volumes

MAX_MEMORY = 6 << 30  # bytes of addresses, most of which no memory stands behind


def main(options: str) -> None:
    """Read a volume."""
    given = json.loads(options)
    target = Path(given.pop("target"))
    with suppress(ImportError, ValueError, OSError):  # not on every system
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, MAX_MEMORY))
    try:
        volume = volumes.read_volume(given.pop("place"), **given)
    except volumes.VolumeError as error:
        found: dict[str, object] = {"refused": str(error)}
    else:
        np.save(target / "values.npy", volume.array)
        image = volume.image
        found = {name: getattr(volume, name) for name in ("modality", "unit", "source", "notes", "space")}
        found["geometry"] = [image.GetOrigin(), image.GetSpacing(), image.GetDirection()]
    (target / "volume.json").write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # they quote values of tags
    main(sys.argv[1])
