"""`FusionSession`: the same pictures, notes and errors as a pipeline, without PyTorch.

The network is one convolution, both as an ONNX file and as what the pipeline runs, so that all else is compared.
"""

import hashlib
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from PIL import ExifTags, Image

from fusion_hub import DiffFuseNetPipeline, InputWarning
from fusion_hub.image import save_image
from fusion_hub.onnx import FusionSession
from fusion_hub.pipelines import locate
from fusion_hub.rigs import Rig
from tests.support.hub_server import HubServer, Repository
from tests.support.tiny import picture_pair, tiny_pipeline
from tests.support.tiny_onnx import BLUR, write_fusion_network


@pytest.fixture(scope="module")
def pipe() -> DiffFuseNetPipeline:
    """A pipeline that runs the convolution."""
    pipe: Any = tiny_pipeline()

    def blur(visible: torch.Tensor, infrared: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        return torch.nn.functional.conv2d(torch.cat([visible, infrared], dim=1), torch.from_numpy(BLUR), padding=4)

    pipe.fuse_luminance = blur
    return pipe


@pytest.fixture(scope="module")
def session(pipe: DiffFuseNetPipeline, tmp_path_factory: pytest.TempPathFactory) -> FusionSession:
    return FusionSession(write_fusion_network(tmp_path_factory.mktemp("onnx") / "blur.onnx", pipe), threads=1)


def samples(image: Image.Image) -> np.ndarray:
    deep = getattr(image, "samples", None)
    return np.asarray(image if deep is None else deep)


def assert_same(session: FusionSession, pipe: DiffFuseNetPipeline, visible: Any, infrared: Any, **call: Any) -> None:
    """Pictures within a level of their type, everything else equal."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InputWarning)
        ours, theirs = (run(visible, infrared, **call).images for run in (session, pipe))
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert (type(one), one.mode, one.size) == (type(other), other.mode, other.size)
        values, expected = samples(one), samples(other)
        assert values.dtype == expected.dtype and values.shape == expected.shape
        step = 1e-6 if values.dtype.kind == "f" else 1
        assert np.abs(values.astype(np.float64) - expected).max() <= step
        assert one.info.pop("fusion_hub").startswith("Fusion Hub") and other.info.pop("fusion_hub")
        assert one.info == other.info


def test_any_kind_of_picture(session: FusionSession, pipe: DiffFuseNetPipeline, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    color = rng.integers(0, 255, (37, 50, 3), np.uint8)
    alpha = np.dstack([color, rng.integers(0, 255, (37, 50), np.uint8)])
    gray, deep = color[..., 0], rng.integers(0, 65535, (37, 50), np.uint16)
    degrees = rng.normal(20, 3, (37, 50)).astype(np.float32)
    degrees[:5] = np.nan  # no data there
    tifffile.imwrite(tmp_path / "degrees.tif", degrees)
    tifffile.imwrite(tmp_path / "color.tif", rng.integers(0, 65535, (37, 50, 3), np.uint16), photometric="rgb")
    for visible in (gray, color, alpha, deep, Image.fromarray(color), tmp_path / "color.tif"):
        for infrared in (gray, deep, tmp_path / "degrees.tif"):
            assert_same(session, pipe, visible, infrared)
    assert_same(session, pipe, tmp_path / "degrees.tif", gray, visible_range=(10.0, 30.0), infrared_range="minmax")
    assert_same(session, pipe, color, gray, rescale="minmax")


def test_real_pairs_and_their_metadata(
    session: FusionSession, pipe: DiffFuseNetPipeline, data_root: Path, tmp_path: Path
) -> None:
    folder = data_root / "data" / "roadscene" / "train"
    file = sorted((folder / "vis").iterdir())[0]
    infrared = next((folder / "ir").glob(f"{file.stem}.*"))
    assert_same(session, pipe, file, infrared)
    save_image(session(file, infrared).images[0], tmp_path / "fused.png")
    assert "ONNX Runtime" in Image.open(tmp_path / "fused.png").getexif()[ExifTags.Base.Software]


def test_tiles_and_batches(session: FusionSession, pipe: DiffFuseNetPipeline) -> None:
    side = pipe.tile_rules.automatic_side
    least = 2 * pipe.tile_rules.overlap(0) + pipe.model.tile_multiple
    visible, infrared = picture_pair(40, 3 * max(least, 4 * pipe.model.tile_multiple) + 5)
    assert side % pipe.model.tile_multiple == 0
    assert_same(session, pipe, visible, infrared, tile=max(least, 4 * pipe.model.tile_multiple))
    pairs = [picture_pair(33, 40, 1), picture_pair(48, 64, 2), picture_pair(33, 40, 3)]
    firsts, seconds = ([pair[k] for pair in pairs] for k in (0, 1))
    for batch_size in (1, 3, None):
        assert_same(session, pipe, firsts, seconds, batch_size=batch_size)
    several = session(firsts, seconds, output_type="np").images
    assert isinstance(several, list) and [one.shape for one in several] == [(33, 40, 3), (48, 64, 3), (33, 40, 3)]
    assert session(*pairs[0], output_type="np").images.shape == (1, 33, 40, 3)
    plain, stretched = session(*pairs[0], rescale="both").images[0]
    assert plain.info == stretched.info and not np.array_equal(plain, stretched)


def test_two_cameras(session: FusionSession, pipe: DiffFuseNetPipeline) -> None:
    pytest.importorskip("cv2")
    visible, infrared = picture_pair(48, 64)[0], picture_pair(40, 40)[1]
    rig = Rig(np.array([[1.0, 0, 10], [0, 1, 4], [0, 0, 1]]), (48, 64), (40, 40))
    assert_same(session, pipe, visible, infrared, rig=rig)


def test_noise_is_estimated_on_the_whole_picture(pipe: DiffFuseNetPipeline, tmp_path: Path) -> None:
    adaptive = FusionSession(write_fusion_network(tmp_path / "noisy.onnx", pipe, adaptive=True), threads=1)
    plain = FusionSession(write_fusion_network(tmp_path / "plain.onnx", pipe), threads=1)
    rng = np.random.default_rng(0)
    visible, infrared = (0.5 + sigma * rng.standard_normal((129, 150)) for sigma in (0.01, 0.04))
    call: dict[str, Any] = {"output_type": "np", "infrared_range": "dtype"}
    clean = plain(visible, infrared, **call).images
    assert float((clean - adaptive(visible, infrared, **call).images).mean()) == pytest.approx(0.05, rel=0.15)
    assert np.abs(clean - adaptive(visible, infrared, denoise=0, **call).images).max() < 1e-6
    darker = clean - adaptive(visible, infrared, denoise=0.5, **call).images
    assert np.abs(darker - 0.1).max() < 1e-5
    with pytest.raises(ValueError, match="not trained to remove noise"):
        plain(visible, infrared, denoise=0.5)


def test_refusals(pipe: DiffFuseNetPipeline, session: FusionSession, tmp_path: Path) -> None:
    visible, infrared = picture_pair(33, 40)
    for call, words in (
        ({"tile": 3}, "tile=3"),
        ({"rescale": "wide"}, "rescale='wide'"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"output_type": "pt"}, "needs a pipeline"),
        ({"infrared_range": "wide"}, "infrared_range must be"),
        ({"denoise": 2}, "denoise=2"),
    ):
        with pytest.raises(ValueError, match=words):
            session(visible, infrared, **call)
    with pytest.raises(FileNotFoundError, match=r"no file .*absent\.onnx"):
        FusionSession(tmp_path / "absent.onnx")
    (tmp_path / "damaged.onnx").write_bytes(b"no network")
    with pytest.raises(OSError, match=r"damaged\.onnx is damaged"):
        FusionSession(tmp_path / "damaged.onnx")
    with pytest.raises(ValueError, match="not a fusion network"):
        FusionSession(write_fusion_network(tmp_path / "later.onnx", pipe, format=2))
    with pytest.raises(ValueError, match="threads=0"):
        FusionSession(write_fusion_network(tmp_path / "plain.onnx", pipe), threads=0)


def test_a_file_of_other_weights_is_refused(tmp_path: Path) -> None:
    pipe = tiny_pipeline()
    pipe.save_pretrained(tmp_path / "own")
    with pytest.raises(FileNotFoundError, match=r"no model\.onnx: make it with fusion-hub export"):
        FusionSession(tmp_path / "own")
    write_fusion_network(tmp_path / "own" / "model.onnx", pipe, weights_sha256="0" * 64)
    with pytest.raises(ValueError, match="other weights than"):
        FusionSession(tmp_path / "own")


def test_a_repository_of_the_hub(
    session: FusionSession, pipe: DiffFuseNetPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network of a published checkpoint is downloaded, and must be of its weights."""
    checkpoint = tmp_path / "checkpoint"
    pipe.save_pretrained(checkpoint)
    digest = hashlib.sha256(next(checkpoint.glob("*/*.safetensors")).read_bytes()).hexdigest()
    write_fusion_network(checkpoint / "model.onnx", pipe, weights_sha256=digest)
    files = {path.relative_to(checkpoint).as_posix(): path for path in checkpoint.rglob("*") if path.is_file()}
    contents = {name: path.read_bytes() for name, path in files.items()}
    plain = {name: content for name, content in contents.items() if name != "model.onnx"}
    weights = next(name for name in contents if name.endswith(".safetensors"))
    with HubServer() as hub:
        hub.redirect(monkeypatch, tmp_path / "home", token=None)
        hub.repositories |= {"tester/exported": Repository(contents), "tester/plain": Repository(plain)}
        hub.repositories["tester/other"] = Repository({**contents, weights: contents[weights][:-1] + b"?"})
        with pytest.raises(FileNotFoundError, match=r"plain has no model\.onnx: .* --to onnx --output model\.onnx"):
            FusionSession("tester/plain")
        with pytest.raises(ValueError, match="was exported from other weights"):
            FusionSession("tester/other")
        assert not (locate("tester/exported") / "model.onnx").exists()
    assert locate("tester/exported", onnx=True) == locate("tester/exported"), "the Hub cannot be reached"
    with hub:
        there = FusionSession("tester/exported", threads=1)
    pair = picture_pair()
    downloaded, expected = (np.asarray(one(*pair).images[0]) for one in (there, session))
    assert np.array_equal(downloaded, expected)


def test_without_onnx_runtime(pipe: DiffFuseNetPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ImportError, match=r"pip install 'fusion-hub\[onnx\]'"):
        FusionSession(write_fusion_network(tmp_path / "plain.onnx", pipe))


def test_nothing_heavy_is_imported(session: FusionSession, pipe: DiffFuseNetPipeline, tmp_path: Path) -> None:
    file = write_fusion_network(tmp_path / "plain.onnx", pipe)
    visible, infrared = picture_pair(33, 40)
    Image.fromarray(visible).save(tmp_path / "visible.png")
    Image.fromarray(infrared).save(tmp_path / "infrared.png")
    script = (
        "import sys; from fusion_hub.onnx import FusionSession; "
        f"FusionSession({str(file)!r}, 1)('visible.png', 'infrared.png').images[0].save('fused.png'); "
        "heavy = ('torch', 'diffusers', 'transformers', 'scipy.fft', 'pandas', 'tifffile.tifffile', 'numpy.ma.core', "
        "'fusion_hub.rigs.calibrator', 'PIL.PdfImagePlugin'); "
        "print([name for name in heavy if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
