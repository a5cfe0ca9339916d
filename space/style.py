"""How the page looks and what it says around its parts."""

from pathlib import Path

import gradio as gr

THEME = gr.themes.Soft(
    primary_hue="indigo",
    neutral_hue="slate",
    font=["system-ui", "sans-serif"],  # no fonts from elsewhere
    font_mono=["ui-monospace", "monospace"],
).set(  # darker than in the theme, for a contrast of 4.5 between text and ground
    background_fill_primary="*neutral_50",  # the theme's own, which `set` forgets
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

Two cameras, one picture. The **visible** image has colors and textures, but loses people in the dark, in glare and in
smoke; the **infrared** image shows their warmth and little else. **Fusion** puts both into one.
"""

NOTES = """
Both images must show the same view, pixel by pixel, and have the same size. {formats} are read, with 8 or 16 bits a
channel or as floating-point numbers, one picture a file. At most {megapixels:.0f} megapixels, {red:.0f} for RED. The
result is a PNG with the depth of the visible image; floating-point images give 16 bits. Your browser may not be able to
show a TIFF, PGM or JPEG 2000 in its box: it is fused all the same, and the result is always shown. Files are deleted
from the server after an hour.
"""

ADVANCED = """
A range says which values of the file become black and white. **Automatic** suits single images. For a video, or for
images to compare, type two fixed values such as `2600,2800` and press Enter. Position, date and camera of the visible
image are left out of the result unless you keep them: people share results.
"""

OWN_PAIR = "**Your own pair:** put an image into each box, then fuse."

HINT = "Uses the pair and the model that are chosen in the tab **Fuse**."

MORE = """
What does fusion buy? One detector looks at the visible, the infrared and the fused image, with the same threshold.
An **illustration**, not an evaluation: the detector learned from ordinary photographs, and a detection is not always an
object.
"""

MEASURE = """
The metrics of the papers for this pair, beside two rules that need no network: the plain average of both images, and
the brighter of both. A number that a rule reaches too says little about a method.
"""

HOW = """
**DiffFuseNet** describes both images by features, lets a diffusion model denoise them in one step, separates what both
sensors share from what is specific to each, and exchanges coarse and fine bands by attention. **RED** walks a short
reversible diffusion from both images to one. These are pictures of what the network computed for this pair.
"""

MEDICAL = """
CT, PET or SPECT with MRI, slices of one head that are registered to each other.

**Not for clinical use.** A fused image is a picture for research: it can hide findings and show some that are
not there.
"""

BATCH = """
Up to {pairs} pairs at once: one zip file with the folders `vis` and `ir`, or images named `street.png` and
`street_ir.png`. You get a zip file with the fused images in full quality and a report.
"""
