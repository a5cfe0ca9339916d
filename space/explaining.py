"""How it works: what the network computed between the two images and the fused one."""

from fusing import fuse_pair
from gpu import on_gpu
from results import new_folder, preview, save_preview
from uploads import in_words, open_upload

from fusion_hub.explain import explain as panels_of

MAX_PIXELS = 1_310_720  # 1280 x 1024: intermediates of a larger pair would fill the memory
SIDE = 800  # pixels of a panel


@on_gpu(seconds=20)
@in_words()
def explain(
    visible: str | None,
    infrared: str | None,
    model: str,
    infrared_range: str | None = "auto",
    visible_range: str | None = "auto",
) -> list[tuple[str, str]]:
    """Fuse a pair and show what the network computed on its way, step by step.

    DiffFuseNet shows its features before and after denoising, shared and specific parts, frequency bands and attention;
    RED the states of its diffusion.

    Args:
        visible: the image that gives colour; the pair has at most 1.3 megapixels.
        infrared: the other image, of the same size.
        model: name of the bundled checkpoint.
        infrared_range: what becomes black and white in the infrared image: "auto", "dtype" (full scale), "minmax",
            "percentile", or two values of the file such as "2600,2800".
        visible_range: the same for the visible image.

    Returns:
        Pictures in the order of the computation, each with a caption of one or two sentences.
    """
    for path, what in ((visible, "visible"), (infrared, "infrared")):
        open_upload(path, what, MAX_PIXELS)
    _, intermediates = fuse_pair(
        visible, infrared, model, "all", infrared_range, visible_range, return_intermediates=True
    )
    folder = new_folder()
    return [
        (save_preview(preview(panel.image, SIDE), folder / f"{index:02d}.png"), f"{panel.title}. {panel.caption}")
        for index, panel in enumerate(panels_of(intermediates), start=1)
    ]
