"""`PairCrops`: what sample n is depends on (seed, n) alone; both bands are cut, turned and scaled alike."""

import json
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from fusion_hub.data import CropSource, PairCrops
from fusion_hub.data.crops import luminance
from fusion_hub.image.processor import FusionImageProcessor


def scene(seed: int, height: int = 40, width: int = 50) -> dict[str, object]:
    rng = np.random.default_rng(seed)
    visible = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    infrared = rng.integers(0, 256, (height, width), dtype=np.uint8)
    return {"visible": visible, "infrared": infrared, "name": f"s{seed}"}


def crops(count: int = 4, size: int = 16, seed: int = 5, **options: object) -> PairCrops:
    return PairCrops([CropSource([scene(n) for n in range(count)])], size, seed, length=1000, **options)


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(a[key], b[key]) for key in ("visible", "infrared", "sample"))


def test_sample_shape_range_and_number() -> None:
    item = crops()[7]
    for band in ("visible", "infrared"):
        assert item[band].shape == (1, 16, 16) and item[band].dtype == torch.float32
        assert 0 <= item[band].min() < item[band].max() <= 1
    assert item["sample"].dtype == torch.int64 and item["sample"].item() == 7
    dataset = crops()  # the size may change with each call
    assert dataset.sample(3, 24)["visible"].shape == (1, 24, 24)
    assert equal(dataset[3, 24], dataset.sample(3, 24)) and equal(dataset[3], dataset.sample(3, 16))


@pytest.mark.parametrize("options", [{}, {"scale_jitter": (0.6, 1.0), "gain_jitter": 0.2, "swap_probability": 0.5}])
def test_pure_function_of_seed_and_number(options: dict[str, object]) -> None:
    one, other = crops(**options), crops(cache=False, **options)
    backwards = {n: other[n] for n in reversed(range(30))}  # another order, another cache
    assert all(equal(one[n], backwards[n]) for n in range(30))
    assert not equal(one[3], one[4])
    assert not equal(one[3], crops(seed=6, **options)[3])


def test_workers_and_batches_change_nothing() -> None:
    dataset = crops()
    straight = torch.stack([dataset[n]["visible"] for n in range(12)])
    loader = DataLoader(torch.utils.data.Subset(dataset, range(12)), batch_size=3, num_workers=1)
    batches = list(loader)
    assert torch.equal(torch.cat([batch["visible"] for batch in batches]), straight)
    assert torch.cat([batch["sample"] for batch in batches]).tolist() == list(range(12))


def test_bands_stay_registered_and_crops_come_from_the_picture() -> None:
    """Coded pixels: each tells its place, so every crop can be looked up in its source, whatever was turned."""
    grid = (np.arange(12 * 15).reshape(12, 15)).astype(np.uint8)
    dataset = PairCrops([CropSource([(grid, 255 - grid)])], 6, 0, 120, min_std=0)
    corners = set()
    for number in range(120):
        item = dataset[number]
        visible = np.rint(item["visible"][0].numpy() * 255).astype(int)
        assert np.array_equal(visible, 255 - np.rint(item["infrared"][0].numpy() * 255).astype(int))
        rows, columns = visible // 15, visible % 15
        assert len(np.unique(rows)) == len(np.unique(columns)) == 6  # a whole 6x6 square
        assert len(np.unique(visible)) == 36
        corners.add((visible[0, 1] - visible[0, 0], visible[1, 0] - visible[0, 0]))
    assert corners == {(a, b) for s in (-1, 1) for t in (-15, 15) for a, b in ((s, t), (t, s))}  # all eight attitudes
    upright = PairCrops(dataset.sources, 6, 0, 50, flip=False, rotate=False, min_std=0)
    for number in range(50):
        visible = upright[number]["visible"][0]
        assert (visible[:, 1:] > visible[:, :-1]).all() and (visible[1:] > visible[:-1]).all()


def test_flat_crops_are_drawn_again() -> None:
    """Half of the picture is flat in the infrared: with `min_std` far fewer flat crops are seen, and never an error."""
    rng = np.random.default_rng(0)
    visible = rng.integers(0, 256, (32, 64), dtype=np.uint8)
    infrared = visible.copy()
    infrared[:, :32] = 9
    flat = {}
    for min_std in (0.0, 4 / 255):
        dataset = PairCrops([CropSource([(visible, infrared)])], 16, 1, 200, min_std=min_std)
        flat[min_std] = sum(dataset[n]["infrared"].std().item() == 0 for n in range(200))
    assert flat[0.0] > 40 and flat[4 / 255] < 5
    black = np.zeros((32, 32), np.uint8)
    assert PairCrops([CropSource([(black, black)])], 16, 1, 10)[0]["visible"].max() == 0


def test_small_pairs_are_padded_by_reflection() -> None:
    small = np.arange(35).reshape(5, 7).astype(np.uint8)
    dataset = PairCrops([CropSource([(small, small)])], 9, 0, 10, flip=False, rotate=False, min_std=0)
    expected = np.pad(small, ((2, 2), (1, 1)), mode="reflect")
    assert np.array_equal(np.rint(dataset[0]["visible"][0].numpy() * 255), expected)
    single = np.full((1, 1), 90, np.uint8)
    assert PairCrops([CropSource([(single, single)])], 9, 0, 1)[0]["visible"].shape == (1, 9, 9)


def test_weights_choose_the_sources() -> None:
    dark, bright = np.full((20, 20), 10, np.uint8), np.full((20, 20), 200, np.uint8)

    for weights, share in (((None, None), 0.5), ((1, 4), 0.8), ((1, 0), 0)):
        sources = [CropSource([(level, level)], weight=w) for level, w in zip((dark, bright), weights, strict=True)]
        dataset = PairCrops(sources, 8, 0, 400, min_std=0)
        found = np.mean([dataset[n]["visible"].mean().item() > 0.5 for n in range(400)])
        assert abs(found - share) < 0.07 and (found == 0) == (share == 0)


def test_scale_jitter_is_antialiased_and_swap_and_gain_do_what_they_say() -> None:
    checker = (np.indices((64, 64)).sum(axis=0) % 2 * 255).astype(np.uint8)
    half = PairCrops([CropSource([(checker, checker)])], 16, 0, 5, scale_jitter=(0.5, 0.5), min_std=0)
    assert half[0]["visible"][0, 3:-3, 3:-3].sub(0.5).abs().max() < 0.06  # gray, not a moire of black and white
    plain, swapped = crops(), crops(swap_probability=1.0)
    assert torch.equal(plain[2]["visible"], swapped[2]["infrared"])
    gained = crops(gain_jitter=0.5)[2]["visible"]
    ratio = (gained / plain[2]["visible"])[(gained < 1) & (plain[2]["visible"] > 0)]
    assert ratio.std() < 1e-5 and 0.5 <= ratio.mean() <= 1.5


def test_exclude_leaves_the_listed_names_out(tmp_path: Path) -> None:
    reserved = tmp_path / "reserved.csv"
    reserved.write_text("dataset,name\nmsrs,s1\nmsrs,s2\ntno,s0\n")
    pairs = [scene(n) for n in range(4)]
    assert len(CropSource(pairs, exclude=reserved, dataset="msrs").open()) == 2
    with pytest.raises(ValueError, match="dataset="):
        CropSource(pairs, exclude=reserved).open()
    for band, key in (("vis", "visible"), ("ir", "infrared")):
        (tmp_path / "tno" / "train" / band).mkdir(parents=True)
        for pair in pairs[:2]:
            Image.fromarray(pair[key]).save(tmp_path / "tno" / "train" / band / f"{pair['name']}.png")
    for source, split in ((tmp_path / "tno", "train"), (str(tmp_path / "tno" / "train"), None)):
        assert [p.name for p in CropSource(source, split, exclude=reserved).open()] == ["s1"]
    everything = tmp_path / "all.csv"
    everything.write_text("dataset,name\n" + "".join(f"x,s{n}\n" for n in range(4)))
    with pytest.raises(ValueError, match="excludes every pair"):
        CropSource(pairs, exclude=everything, dataset="x").open()
    (tmp_path / "bad.csv").write_text("set,stem\n")
    with pytest.raises(ValueError, match="it needs dataset and name"):
        CropSource(pairs, exclude=tmp_path / "bad.csv", dataset="x").open()


def test_preload_reads_everything_once() -> None:
    infrared = Mock(return_value=scene(0)["infrared"])
    pairs = [{"visible": scene(n)["visible"], "infrared": infrared, "name": str(n)} for n in range(3)]
    dataset = PairCrops([CropSource(pairs)], 16, 0, 10).preload(progress=False)
    assert infrared.call_count == 3
    _ = [dataset[n] for n in range(10)]
    assert infrared.call_count == 3


def test_pictures_are_read_as_the_pipeline_reads_them(tmp_path: Path) -> None:
    """By minimum and maximum one hot pixel would leave the rest black."""
    counts = np.random.default_rng(0).integers(2600, 2800, (48, 64)).astype(np.uint16)
    counts[20, 20] = 60000
    Image.fromarray(counts).save(tmp_path / "ir.png")
    visible = np.random.default_rng(1).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    assert np.abs(luminance(visible) - visible @ np.array([0.299, 0.587, 0.114])).max() <= 0.51
    assert np.array_equal(luminance(counts, value_range="dtype"), np.rint(counts / 257))
    for given in (tmp_path / "ir.png", Image.open(tmp_path / "ir.png"), counts.astype(np.float32)):
        _, infrared, _ = FusionImageProcessor().preprocess(visible, given)
        assert np.abs(luminance(given, stretch=True) - infrared[0, 0].numpy() * 255).max() <= 0.51
    pairs = [{"visible": visible, "infrared": counts, "name": "a"}]
    assert PairCrops([CropSource(pairs)], 32, 0, 1)[0]["infrared"].std() > 0.2
    fixed = PairCrops([CropSource(pairs, infrared_range=(0, 65535))], 32, 0, 1, min_std=0)[0]
    assert fixed["infrared"].mean() < 0.05


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"sources": []}, "sources"),
        ({"crop_size": 0}, "crop_size is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"scale_jitter": (0.0, 1.0)}, "scale_jitter"),
        ({"scale_jitter": (0.5, 1.5)}, "scale_jitter"),
        ({"swap_probability": 1.5}, "swap_probability is 1.5"),
        ({"gain_jitter": 1.0}, "gain_jitter is 1.0"),
    ],
)
def test_bad_arguments(options: dict[str, object], text: str) -> None:
    arguments: dict[str, object] = {"sources": [CropSource([scene(0)])], "crop_size": 8, "seed": 0, "length": 4}
    with pytest.raises(ValueError, match=text):
        PairCrops(**{**arguments, **options})


def test_bad_pairs_and_weights() -> None:
    good, bad = scene(0), {**scene(1), "infrared": np.zeros((3, 4), np.uint8)}
    with pytest.raises(ValueError, match=r"'s1' are 50x40 and 4x3 pixels: register and crop them"):
        PairCrops([CropSource([good, bad])], 8, 0, 4).preload(progress=False)
    with pytest.raises(ValueError, match="nothing but NaN"):
        luminance(np.full((4, 4), np.nan))
    with pytest.raises(ValueError, match=r"shape \(4,\)"):
        luminance(np.zeros(4))
    with pytest.raises(ValueError, match="weights"):
        PairCrops([CropSource([good], weight=0)], 8, 0, 4)
    with pytest.raises(IndexError, match="sample 4 of 4"):
        PairCrops([CropSource([good])], 8, 0, 4)[4]


def boxed_set(folder: Path, categories: tuple[str, ...] = ("person", "bicycle", "car")) -> Path:
    """Three pairs of 40x50 pixels: objects of one color each on gray that brightens downward; the last has none."""
    boxes = [[(0, 4, 6, 10, 8), (2, 30, 20, 12, 12)], [(1, 20, 10, 8, 14)], []]
    for band in ("vis", "ir", "boxes"):
        (folder / band).mkdir(parents=True)
    for name, rows in enumerate(boxes):
        visible = np.broadcast_to(np.arange(60, 140, 2, dtype=np.uint8)[:, None, None], (40, 50, 3)).copy()
        for class_id, left, top, width, height in rows:
            visible[top : top + height, left : left + width] = np.eye(3, dtype=np.uint8)[class_id] * 255
        Image.fromarray(visible).save(folder / "vis" / f"{name}.png")
        Image.fromarray(visible[..., 0]).save(folder / "ir" / f"{name}.png")
    content = {
        "categories": [{"id": number, "name": name} for number, name in enumerate(categories)],
        "images": [{"id": number, "file_name": f"{number}.png", "width": 50, "height": 40} for number in range(3)],
        "annotations": [
            {"id": 100 * number + at, "image_id": number, "category_id": class_id, "bbox": box}
            for number, rows in enumerate(boxes)
            for at, (class_id, *box) in enumerate(rows)
        ],
    }
    (folder / "boxes" / "all.json").write_text(json.dumps(content))
    return folder


def test_boxes_and_colors_follow_the_crop(tmp_path: Path) -> None:
    """Each box holds the color of its class, and no colored pixel lies outside of all boxes."""
    source = CropSource(boxed_set(tmp_path / "set"))
    dataset = PairCrops([source], 24, 0, 60, min_std=0, scale_jitter=(0.6, 1.0), boxes=True)
    seen = 0
    for number in range(60):
        item = dataset[number]
        assert item["annotated"] and item["boxes"].shape == (2, 5) and item["chroma"].shape == (2, 24, 24)
        blue, red = (item["visible"] + torch.tensor([1.772, 1.402]).view(2, 1, 1) * item["chroma"]).numpy()
        colored = item["chroma"].abs().amax(0).numpy() > 0.1
        for class_id, left, top, right, bottom in item["boxes"].tolist():
            if class_id < 0:
                continue
            rows, columns = (slice(max(round(a), 0), max(round(b), 0)) for a, b in ((top, bottom), (left, right)))
            inner = tuple(slice(one.start + 2, max(one.stop - 2, 0)) for one in (rows, columns))
            assert np.abs(red[inner] - (class_id == 0)).max(initial=0) < 0.05
            assert np.abs(blue[inner] - (class_id == 2)).max(initial=0) < 0.05
            seen += red[inner].size
            colored[max(rows.start - 3, 0) : rows.stop + 3, max(columns.start - 3, 0) : columns.stop + 3] = False
        assert not colored.any()
        gray = item["visible"][0].where(item["chroma"].abs().amax(0) < 0.01, torch.nan)
        assert gray[:12].nanmean() < gray[12:].nanmean()  # upright
    assert seen > 500
    plain = PairCrops([source], 24, 0, 60, min_std=0, scale_jitter=(0.6, 1.0), flip=False, rotate=False)
    assert set(plain[0]) == {"visible", "infrared", "sample"}
    upright = PairCrops(plain.sources, 24, 0, 60, min_std=0, scale_jitter=(0.6, 1.0), boxes=True, flip=False)
    assert all(equal(plain[number], upright[number]) for number in range(60))


def test_samples_without_annotations_say_so(tmp_path: Path) -> None:
    known, other = boxed_set(tmp_path / "known"), boxed_set(tmp_path / "other", ("person", "truck", "car"))
    for source, annotated in ((known, True), (other, False), ([scene(0)], False)):
        item = PairCrops([CropSource(source)], 16, 0, 1, boxes=True)[0]
        assert item["annotated"] == annotated
    mixed = PairCrops([CropSource(known), CropSource([scene(0)])], 16, 0, 40, boxes=True)
    batch = torch.utils.data.default_collate([mixed[number] for number in range(40)])
    assert batch["boxes"].shape == (40, 2, 5) and (batch["boxes"][~batch["annotated"], :, 0] == -1).all()
    padded = PairCrops([CropSource(known)], 48, 0, 10, min_std=0, boxes=True)
    assert not any(padded[number]["annotated"] for number in range(10))
    swapped = PairCrops([CropSource(known)], 16, 0, 10, min_std=0, boxes=True, swap_probability=1.0)
    assert not any(swapped[number]["chroma"].any() for number in range(10))


def test_real_training_sets(data_root: Path) -> None:
    data = data_root / "data"
    sources = [
        CropSource(data / "tno", "train", weight=1, exclude=data / "reserved.csv"),
        CropSource(data / "mri_pet", "train", weight=1),
        CropSource(data / "roadscene", "train", weight=1, exclude=data / "reserved.csv"),
    ]
    dataset = PairCrops(sources, 96, 0, 24)
    assert [len(pairs) for pairs in dataset.sets] == [12, 135, 131]
    batch = torch.stack([dataset[n]["visible"] for n in range(24)])
    assert batch.shape == (24, 1, 96, 96) and batch.std() > 0.1


def test_bad_pairs_are_listed_before_they_are_sampled(tmp_path: Path) -> None:
    for index in range(9):
        for band in ("vis", "ir"):
            (tmp_path / band).mkdir(exist_ok=True)
            side = 40 if band == "ir" and index < 7 else 30
            Image.new("L", (side, 30)).save(tmp_path / band / f"{index}.png")
    crops = PairCrops([CropSource(tmp_path)], 16, 0, 1)
    with pytest.raises(ValueError, match=r"\(7\).*\n  0: visible 30x30, infrared 40x30\n(.*\n){4}  and 2 more$"):
        crops.check()
