"""Names of the Hub: a mistyped path is never looked up there, and an unreachable Hub is an error at once."""

import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from huggingface_hub import constants

from fusion_hub import FusionPipeline, PairedDataset
from fusion_hub.downstream import OnnxDetector, TransformersDetector
from fusion_hub.models.pruned_unet import load_sd_unet
from fusion_hub.repositories import is_hub_id

LOADERS: dict[str, Callable[[str], object]] = {
    "pipeline": FusionPipeline.from_pretrained,
    "data set": PairedDataset.open,
    ".onnx file": OnnxDetector.from_pretrained,
    "network": TransformersDetector.from_pretrained,
    "U-Net": load_sd_unet,
}
PATHS = (
    "nope",
    "./me/x",
    "../me/x",
    "~/x",
    "/me/x",
    "me/x/",
    "vis/street.png",
    "me/x.onnx",
    "me/x.safetensors",
    "a b/c",
)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What was looked up by name, of any host."""
    names: list[object] = []

    def refuse(host: object, *_: object, **__: object) -> list[object]:
        names.append(host)
        raise socket.gaierror("no network")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    return names


def test_ids() -> None:
    assert not any(map(is_hub_id, (*PATHS, "a/b/c", "a/b.git", "a--b/c", "a/b..c", "-a/b", "a/b-", "a/b\n", "")))
    assert all(map(is_hub_id, ("me/street", "me/street-v1.0", "Org_1/x_y.2", "a/b")))


@pytest.mark.parametrize("what", LOADERS)
def test_paths_are_not_looked_up(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: list[object]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    for name in (*PATHS, "runs/gone"):
        with pytest.raises((ValueError, OSError), match=f"no {what} named") as caught:
            LOADERS[what](name)
        assert "\n" not in str(caught.value)
    assert not asked


@pytest.mark.parametrize("what", [what for what in LOADERS if what != "U-Net"])
def test_an_unreachable_hub_is_asked_once(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: list[object]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ValueError, OSError), match="the Hub cannot be reached") as caught:
        LOADERS[what]("owner/name")
    assert "\n" not in str(caught.value) and len(asked) == 1
