"""Theme and texts of the page."""

from pathlib import Path

import gradio as gr

THEME = gr.themes.Soft(
    primary_hue="indigo",
    neutral_hue="slate",
    font=["system-ui", "sans-serif"],  # no web fonts
    font_mono=["ui-monospace", "monospace"],
).set(  # darker than the theme, for a contrast of 4.5 between text and background
    background_fill_primary="*neutral_50",  # the theme's value, which `set` drops
    body_text_color_subdued="*neutral_600",
    block_label_text_color="*primary_700",
    block_title_text_color="*primary_700",
    button_primary_background_fill="*primary_600",
    button_primary_background_fill_dark="*primary_600",
    button_primary_background_fill_hover="*primary_700",
    button_primary_background_fill_hover_dark="*primary_700",
    checkbox_label_background_fill_selected="*primary_600",
)

CSS = Path(__file__).with_name("page.css")
SCRIPT = Path(__file__).with_name("page.js")

INTRODUCTION = """
# Fusion Hub

Two cameras, one picture. A **visible** image has colors and textures, but misses people in darkness, glare or smoke.
An **infrared** image shows their warmth and little else. **Fusion** combines both in one image. The networks are
independent implementations of two papers.

[Code and weights](https://github.com/fusion-hub/fusion-hub) ·
[Model cards](https://github.com/fusion-hub/fusion-hub/tree/main/model_cards) ·
[DiffFuseNet paper](https://doi.org/10.1016/j.patcog.2026.114259) ·
[RED paper](https://arxiv.org/abs/2601.20260)
"""

NOTES = """
Both images must show the same view, pixel by pixel, and have the same size. Formats: {formats}, 8-bit, 16-bit or
floating-point, one image per file. Limits: {megapixels:.0f} megapixels, {red:.0f} for RED. The result is a PNG with
the bit depth of the visible image; floating-point images produce 16-bit output. Your browser may not show a TIFF, PGM
or JPEG 2000 file in its box, but the page fuses it and shows the result. The server deletes all files after an hour.
"""

ADVANCED = """
A range sets which pixel values map to black and white. **Automatic** suits single images. For a video, or to compare
images, type two fixed values such as `2600,2800` and press Enter. Because results get shared, the location, date and
camera metadata of the visible image are removed unless you keep them.
"""

OWN_PAIR = "**Your own pair:** add an image to each box, then click {button}."

HINT = "Fuse a pair first, on **Fuse** or **Medical**."
DETECT_HINT = "Fuse a pair first, on **Fuse**."

SEGMENT = """
What a small network sees in the visible, the infrared and the fused image: a class for each pixel. This is an
**illustration**, not an evaluation: the network is often wrong, most of all on scenes unlike those it learned from.
"""

DETECT = """
What small networks see in the visible, the infrared and the fused image: objects in boxes, and a class for each pixel.
This is an **illustration**, not an evaluation: the networks miss objects, and some boxes hold nothing.
"""

MEASURE = """
The papers' metrics for this pair, next to two simple baselines: the average of both images, and the brighter of the two
at each pixel. ↑ means that higher is better, and **●** marks the best value. If a baseline scores just as well, the
number says little about the method. A sum adds the values for both images. SSIM is the common form, with an 11x11
Gaussian window; `fusion-hub evaluate` also shows SSIM_cddfuse, the form in CDDFuse's tables.
"""

HOW = """
What the network computed for this pair, step by step.
"""

ALL_STEPS = """
**DiffFuseNet** extracts features from both images, denoises them with one step of a diffusion model, separates what
both sensors share from what is specific to each, and combines coarse and fine bands with attention. **RED** runs a
short reversible diffusion from both images to one. Steps whose result is the same at every pixel are left out.
"""

MEDICAL = """
### CT, PET or SPECT with MRI

Two registered slices of the same head become one picture. **Not for clinical use:** a fused image is for research only,
since it can hide findings and show some that are not there. From DICOM or NIfTI, export a slice as 16-bit PNG or TIFF.
"""

VOLUMES = """
### Two volumes of one person

CT, MR, PET or SPECT as hospitals store them: a **zip file** with the files of one DICOM series, one DICOM file, NIfTI,
NRRD or MetaImage, at most {megavoxels:.1f} million voxels and 32 MiB. The moving volume, such as CT, PET or SPECT, is
registered to the fixed one, such as MR, and both are fused slice by slice. **{notice}** An upload is deleted as soon as
it has been read. Only voxels and geometry are kept, for an hour. A head has a face, though, and text in the pixels
stays.
"""

NO_VOLUMES = "This server lacks the packages that read volumes: `pip install 'fusion-hub[medical]'` adds them."

COLORS = "In the overlay, a color of a PET or SPECT means what it means in the scan; the fused image changes colors."

BATCH = """
Up to {pairs} pairs at once: one zip file with the folders `vis` and `ir`, or images named `street.png` and
`street_ir.png`. You get a zip file with the fused images at full quality and a report.
"""

TWO_CAMERAS = """
### Two cameras that do not match

Two cameras side by side see different views, at different sizes. This page **aligns** them by their edges, shows how
well they fit, and fuses them. A pair that cannot be aligned with confidence is refused.
"""

RADIOMETRIC = """
A **FLIR camera** stores temperatures in its JPEG files, and often a visible picture too. Upload the file as the camera
wrote it: apps that edit or send pictures remove the temperatures. You get them in degrees C with a scale, and both
pictures fused where the file has both.
"""

CLIP = """
A **short clip** of both cameras, recorded at the same time: at most {frames} frames and {megapixels:.0f} megapixels in
all, {width} x {height} pixels a frame. The cameras are aligned once for all frames. For longer recordings there is
`fusion-hub fuse-video`.
"""

FIELD_OF_VIEW = "Ratio of the widths that both cameras see, such as 0.6, if you know it. It makes aligning safer."

CAMERA_NOTES = """
Both images show the same scene at the same moment; they may differ in size and in field of view. One alignment fits one
distance: things much nearer than the rest keep a double contour. `rig.json` holds the alignment: with
`fusion-hub fuse --rig rig.json`, every further pair of the same two cameras is fused without aligning it again. Formats
and limits are those of the tab Fuse.
"""
