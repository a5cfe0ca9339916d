"""The one type that all explanations are made of."""

from typing import NamedTuple

from PIL import Image


class Panel(NamedTuple):
    """One picture of what happens inside a network.

    Attributes:
        title: of the picture, unlike all others of one explanation.
        image: 8-bit RGB, of the size of the fused image.
        caption: one plain sentence that says what is seen.
        stage: the part of the network, the same for neighbouring panels: a heading.
    """

    title: str
    image: Image.Image
    caption: str
    stage: str
