"""What a card says of the paper behind a network, and the fields of its configuration that it shows."""

from typing import NamedTuple

SETTINGS = (
    "max_steps",
    "batch_size",
    "crop_size",
    "late_fraction",
    "late_batch_size",
    "late_crop_size",
    "learning_rate",
    "weight_decay",
    "ema_decay",
    "precision",
)
"""Fields of every configuration that a card shows."""


class Method(NamedTuple):
    """One network's method.

    Attributes:
        title: its name, by which its rows are known in `published.json`.
        settings: fields of the training task's configuration that the card shows.
        reservation: what the reader must know of this implementation.
        paper_numbers: why the paper's own numbers are not quoted, where no row of them is known.
        paper_cost: what the paper states of its cost; empty if nothing.
        citation: BibTeX.
    """

    title: str
    settings: tuple[str, ...]
    reservation: str
    paper_numbers: str
    paper_cost: str
    citation: str


METHODS: dict[str, Method] = {
    "DiffFuseNetModel": Method(
        title="DiffFuseNet",
        settings=(
            "stage_one_fraction",
            "intensity",
            "gradient",
            "gradient_gain",
            "ssim",
            "structure",
            "fidelity",
            "difference_correlation",
            "decoupling",
            "diffusion",
            "consistency",
            "out_of_range",
        ),
        reservation="`docs/models.md` of the package says where it departs from the description, and why.",
        paper_numbers="The paper's own numbers are not quoted: those known to us name no set of pairs, so nothing here "
        "could be compared with them.",
        paper_cost="The paper states 4.02 M parameters for its own network, and 0.074 s on an RTX 4090.",
        citation="""@article{wang2026difffusenet,
  title   = {DiffFuseNet: Infrared-visible image fusion via diffusion-guided feature alignment and feature consistency alignment},
  author  = {Wang and Li and Yang and Xu and Lv and Liu},
  journal = {Pattern Recognition},
  volume  = {180},
  pages   = {114259},
  year    = {2026},
  doi     = {10.1016/j.patcog.2026.114259}
}""",  # noqa: E501
    ),
    "REDModel": Method(
        title="RED",
        settings=(
            "num_steps",
            "random_steps",
            "block_out_channels",
            "layers_per_block",
            "attention_window",
            "source_injection",
            "mae",
            "mae_target",
            "gradient",
            "gradient_target",
            "gradient_gain",
            "ssim",
            "structure",
            "fidelity",
            "difference_correlation",
            "out_of_range",
        ),
        reservation="The paper's formulas were not available to us, only its prose and its tables: the equations are a "
        "reconstruction, in `docs/models.md` of the package.",
        paper_numbers="The paper prints numbers for other sets than those above; they are not quoted.",
        paper_cost="",
        citation="""@article{xu2026red,
  title   = {RED: Reversible Efficient Diffusion for Image Fusion},
  author  = {Xu and Cao and Li and Hu and Zhu},
  journal = {arXiv preprint arXiv:2601.20260},
  year    = {2026}
}""",
    ),
}
"""By the class name of the network."""
