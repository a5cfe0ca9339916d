"""Volumes: CT, MR, PET and SPECT from DICOM, NIfTI, NRRD and MetaImage, brought onto one grid and fused.

`reading` opens files and folders (`dicom_series`, `dicom_frames` and `suv` for DICOM), `windows` maps physical values
to [0, 1], `grids` resamples, `registration` aligns, `fusing` runs a pipeline slice by slice, `coloring` and `views`
draw, `writing` and `dicom_writing` store results. Public names are listed in `__init__.pyi` and imported on first use.

Research software, no medical device: nothing here is for diagnosis.
"""

from typing import Any

import lazy_loader

_import_name, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

INSTALL = "volumes need SimpleITK, pydicom, highdicom and nibabel: pip install 'fusion-hub[medical]'"


def __getattr__(name: str) -> Any:
    try:
        return _import_name(name)
    except ModuleNotFoundError as error:
        if error.name in ("SimpleITK", "pydicom", "highdicom", "nibabel"):
            raise ImportError(INSTALL) from error
        raise
