"""The leaderboard: ranks, paired bootstrap, merging, refusals, and a page that is safe, accessible and alone."""

import base64
import dataclasses
import hashlib
import json
import math
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import bootstrap, rankdata

from fusion_hub.evaluation import report
from fusion_hub.evaluation.leaderboard import (
    CONVENTIONS,
    RANK_METRICS,
    Estimate,
    Row,
    assemble,
    build,
    compare,
    holm,
    mean_ranks,
    merge,
    paired_bootstrap,
    read_evaluation,
    read_published,
)
from fusion_hub.evaluation.leaderboard_page import HEIGHT, WIDTH, Point, label_boxes, overlap, place_labels
from fusion_hub.metrics import METRICS
from tests.support.browser import chromium

NAMES = tuple(f"{i:02d}" for i in range(12))
SHOWN = (*RANK_METRICS, "MSE", "VIF_visible", "VIF_infrared")


def entry(method: str, kind: str = "model", dataset: str = "toy", shift: float = 0.0, **more: Any) -> dict[str, Any]:
    """A row as `fusion-hub evaluate` writes it: twelve images, values that depend on name and shift."""
    random = np.random.default_rng(7)
    values = {name: (0.5 + 0.1 * random.standard_normal(len(NAMES)) + shift).tolist() for name in SHOWN}
    metrics = {
        name: {"mean": float(np.mean(column)), "low": min(column), "high": max(column)}
        for name, column in values.items()
    }
    row = {"method": method, "kind": kind, "source": "measured here", "dataset": dataset, "n": len(NAMES)}
    return row | {"metrics": metrics, "per_image": {"names": list(NAMES), "values": values}, "warnings": []} | more


def baselines(dataset: str = "toy") -> list[dict[str, Any]]:
    return [entry(name, "baseline", dataset, shift) for name, shift in (("average", -0.05), ("maximum", 0.02))]


def save(path: Path, rows: list[dict[str, Any]], **more: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    provenance = {"conventions": {"values": "8-bit"}}
    path.write_text(json.dumps({"format": "fusion-hub-evaluation/1", "rows": rows, "provenance": provenance} | more))
    return path


def in_memory(method: str, values: np.ndarray, names: tuple[str, ...] = NAMES, metric: str = "VIF") -> Row:
    means = {metric: Estimate(float(np.nanmean(values)))}
    return Row(method, "model", "here", "toy", len(names), means, names, {metric: values})


def test_mean_ranks_are_those_of_scipy_and_know_directions() -> None:
    values = np.random.default_rng(0).integers(0, 4, (9, 3)).astype(float)  # many ties
    names = ("SCD", "VIF", "MSE")
    means = [{name: Estimate(v) for name, v in zip(names, row, strict=True)} for row in values]
    rows = [Row("", "model", "", "toy", 1, metrics) for metrics in [*means, {"SCD": Estimate(-9.0)}]]
    expected = np.mean([rankdata(column) for column in (values * [-1, -1, 1]).T], axis=0)
    *ranks, partial = mean_ranks(rows, names)
    assert np.allclose(np.array(ranks, dtype=float), expected) and partial is None


def test_paired_bootstrap_agrees_with_scipy() -> None:
    differences = np.random.default_rng(3).gamma(2.0, 1.0, 40) - 1.0
    mean, low, high, p = paired_bootstrap(differences, resamples=20000)
    found = bootstrap((differences,), np.mean, n_resamples=20000, method="percentile", rng=np.random.default_rng(1))
    assert mean == differences.mean()
    assert (low, high) == pytest.approx(tuple(found.confidence_interval), abs=0.03)
    assert p < 0.01


@settings(max_examples=20, deadline=None)
@given(st.lists(st.floats(-5, 5), min_size=1, max_size=12))
def test_paired_bootstrap_is_symmetric_and_bounded(values: list[float]) -> None:
    differences = np.array(values)
    mean, low, high, p = paired_bootstrap(differences, resamples=200)
    turned = paired_bootstrap(-differences, resamples=200)
    assert turned == pytest.approx((-mean, -high, -low, p))
    slack = 1e-12
    assert differences.min() - slack <= low <= high <= differences.max() + slack
    assert 2 / 201 <= p <= 1


def test_equal_methods_wrong_differences_and_holm_by_hand() -> None:
    assert paired_bootstrap(np.zeros(9)) == (0, 0, 0, 1)
    for wrong in (np.empty(0), np.array([1.0, math.nan]), np.zeros((2, 2))):
        with pytest.raises(ValueError, match="finite value for each image"):
            paired_bootstrap(wrong)
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0] and holm([]) == []


def test_images_are_paired_by_name() -> None:
    random = np.random.default_rng(0)
    reference = random.normal(0.5, 0.1, 12)
    better = reference + 0.02 + random.normal(0, 0.005, 12)
    order = random.permutation(12)
    names = tuple(NAMES[i] for i in order)
    straight, shuffled = (
        compare([own], in_memory("r", reference), ["VIF"])
        for own in (in_memory("a", better), in_memory("a", better[order], names))
    )
    assert straight == shuffled
    (found,) = straight
    assert found.n == 12 and found.better and found.confirmed
    assert found.difference == pytest.approx((better - reference).mean())
    # Unpaired, the same means would say nothing: the spread over images is far larger than the difference.
    assert reference.std() > 3 * found.difference


def test_undefined_and_foreign_images_are_left_out() -> None:
    reference, other = np.linspace(0, 1, 12), np.linspace(0, 1, 12) + 0.1
    other[[0, 5]] = math.nan
    names = ("new", *NAMES[1:])
    (found,) = compare([in_memory("a", other, names)], in_memory("r", reference), ["VIF"])
    assert found.n == 10 and found.difference == pytest.approx(0.1)
    other[:9] = math.nan
    assert compare([in_memory("a", other)], in_memory("r", reference), ["VIF"]) == []  # three images say nothing
    assert compare([in_memory("a", other, metric="Qabf")], in_memory("r", reference), ["VIF", "Qabf"]) == []


def test_direction_decides_who_is_better() -> None:
    low, high = in_memory("low", np.full(12, 1.0), metric="MSE"), in_memory("high", np.full(12, 2.0), metric="MSE")
    assert compare([low], high, ["MSE"])[0].better
    assert not compare([high], low, ["MSE"])[0].better


def test_build_merges_files_and_writes_both_pages(tmp_path: Path) -> None:
    first = save(tmp_path / "a" / "summary.json", [entry("ours", shift=0.04), *baselines()])
    save(tmp_path / "b" / "summary.json", [entry("theirs", "folder", shift=0.01), *baselines()])
    board = build([first, tmp_path / "b"], tmp_path / "out" / "deep")
    (own,) = board.boards
    assert [e.row.method for e in own.entries] == ["ours", "maximum", "theirs", "average"]
    assert [e.rank for e in own.entries] == [1, 2, 3, 4]
    assert own.reference == "ours" and not own.notes
    assert {c.method for c in own.comparisons} == {"theirs", "average", "maximum"}
    assert all(c.n == 12 and c.confirmed and not c.better for c in own.comparisons)
    assert list(board.provenance) == ["a/summary.json", "b/summary.json"]
    files = {path.name: path.read_text(encoding="utf-8") for path in (tmp_path / "out" / "deep").iterdir()}
    assert set(files) == {"leaderboard.md", "index.html"}
    assert all(str(tmp_path) not in text for text in files.values())
    again = build([first, tmp_path / "b"], tmp_path / "again")
    assert again.boards[0].comparisons == own.comparisons
    assert (tmp_path / "again" / "index.html").read_text(encoding="utf-8") == files["index.html"]


def test_equal_rows_from_two_files_keep_the_metrics_of_both(tmp_path: Path) -> None:
    one, two = entry("ours"), entry("ours")
    del one["metrics"]["VIF"], one["per_image"]["values"]["VIF"]
    del two["metrics"]["EN"], two["per_image"]["values"]["EN"]
    columns = {name: column[::-1] for name, column in two["per_image"]["values"].items()}
    two["per_image"] = {"names": two["per_image"]["names"][::-1], "values": columns}
    rows = [read_evaluation(save(tmp_path / f"{i}.json", [row]))[0][0] for i, row in enumerate((one, two))]
    (merged,) = merge(rows)
    assert set(merged.metrics) == set(merged.per_image) == set(SHOWN)
    assert merged.per_image["VIF"].tolist() == entry("ours")["per_image"]["values"]["VIF"]


@pytest.mark.parametrize(
    ("other", "advice"),
    [
        (entry("ours", shift=0.001), "different names or leave one file out"),
        (entry("ours", n=25, per_image=None), "all pairs in one run, or give each part a name"),
        (entry("ours", per_image={"names": [f"x{i}" for i in range(12)], "values": {}}), "all pairs in one run"),
    ],
)
def test_contradicting_rows_are_refused_by_file(tmp_path: Path, other: dict[str, Any], advice: str) -> None:
    files = [save(tmp_path / f"{name}.json", [row]) for name, row in (("one", entry("ours")), ("two", other))]
    with pytest.raises(ValueError, match=rf"two\.json.*'ours' on toy differs.*one\.json.*{advice}"):
        build(files, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_marks_follow_the_direction(tmp_path: Path) -> None:
    rows = [entry(name, shift=shift) for name, shift in (("a", 0.0), ("b", 0.1), ("c", 0.1), ("d", 0.05))]
    board = build([save(tmp_path / "s.json", rows)], tmp_path, metrics=["MSE"])
    found = {
        e.row.method: (e.rank, "VIF" in e.best, "VIF" in e.second, "MSE" in e.best) for e in board.boards[0].entries
    }
    first = (1.5, True, False, False)
    assert found == {"a": (4, False, False, True), "b": first, "c": first, "d": (3, False, True, False)}


def test_a_mean_over_fewer_images_has_no_mark(tmp_path: Path) -> None:
    rows = [entry("a"), entry("b", shift=0.2)]
    rows[1]["metrics"]["VIF"]["n"] = 11  # undefined on one of the twelve
    (board,) = build([save(tmp_path / "s.json", rows)], tmp_path).boards
    marks = {e.row.method: e.best for e in board.entries}
    assert "VIF" in marks["a"] and "VIF" not in marks["b"] and "SSIM_cddfuse" in marks["b"]
    assert "(11 of 12)" in (tmp_path / "leaderboard.md").read_text()


def test_rows_over_other_images_are_shown_but_not_ranked(tmp_path: Path) -> None:
    few = entry("few", shift=1.0, n=3, per_image=None)
    others = entry("others", shift=1.0)
    others["per_image"]["names"] = ["new", *NAMES[1:]]
    board = build([save(tmp_path / "s.json", [few, others, entry("ours"), *baselines()])], tmp_path).boards[0]
    assert board.n == 12 and [e.row.method for e in board.entries][-2:] == ["few", "others"]
    for found, reason in zip(board.entries[-2:], ("over 3 images", "1 of its 12 images"), strict=True):
        assert found.rank is None and not found.best and reason in found.notes[0]
    # What both have in common can still be compared.
    assert {c.n for c in board.comparisons if c.method == "others"} == {11}


def test_missing_rows_and_metrics_are_noted(tmp_path: Path) -> None:
    silent = entry("silent", per_image=None)
    del silent["metrics"]["SCD"]
    board = build([save(tmp_path / "s.json", [silent])], tmp_path, published=False)
    assert board.boards[0].reference is None and board.boards[0].comparisons == ()
    for page in ("leaderboard.md", "index.html"):
        text = (tmp_path / page).read_text()
        assert "No row of average or maximum" in text and "there is no mean rank" in text
        assert "No row has per-image values" in text


def test_evaluations_with_different_conventions_are_noted(tmp_path: Path) -> None:
    details = [
        {"conventions": {"values": values, "size": "original"}, "datasets": {"toy": {"blake2b": digest}}}
        for values, digest in (("8-bit", "aa"), ("unrounded", "aa"), ("8-bit", "bb"))
    ]
    files = [save(tmp_path / f"{i}.json", [entry(str(i))], provenance=own) for i, own in enumerate(details)]
    convention, images = build(files, tmp_path).notes
    assert "conventions, 'values'" in convention and "0.json" in convention and "not comparable" in convention
    assert "datasets, 'toy'" in images and "2.json" in images
    assert build(files[:1], tmp_path).notes == ()


def test_published_rows_join_those_of_their_set(tmp_path: Path) -> None:
    ours = entry("ours", dataset="tno/test", n=25, per_image=None)
    path = save(tmp_path / "s.json", [ours, entry("CDDFuse", "folder", "tno/test", n=25, per_image=None)])
    clamped, stretched = build([path], tmp_path).boards
    kinds = {(e.row.method, e.row.kind) for e in clamped.entries}
    assert {("ours", "model"), ("CDDFuse", "folder"), ("SwinFusion", "published")} <= kinds
    assert ("CDDFuse", "published") in {(e.row.method, e.row.kind) for e in stretched.entries}
    for board in (clamped, stretched):  # baselines stand in for those that were not measured
        published = {e.row.method for e in board.entries if e.row.kind == "published"}
        assert {"average", "maximum", "SeAFusion"} <= published and all(e.rank is not None for e in board.entries)
    assert not clamped.notes and "Not in this table: ours, CDDFuse" in stretched.notes[0]
    assert [[table.dataset for table in board.printed] for board in (clamped, stretched)] == [["tno/test"], []]
    (alone,) = build([path], tmp_path, published=False).boards
    assert len(alone.entries) == 2 and not alone.printed


def both(method: str, kind: str = "model", shift: float = 0.0, gain: float = 0.1, **more: Any) -> dict[str, Any]:
    """A row that was measured in both conventions; `gain` is what the stretch adds to every value."""
    row, stretched = entry(method, kind, shift=shift, **more), entry(method, kind, shift=shift + gain)
    return row | {"minmax": {"metrics": stretched["metrics"], "values": stretched["per_image"]["values"]}}


def test_rows_are_ranked_within_their_convention(tmp_path: Path) -> None:
    rows = [
        both("ours", shift=0.05),
        entry("theirs", "folder", shift=0.12, was_stretched=True),
        entry("old", shift=0.01),  # of a file without the other convention
        both("average", "baseline", -0.05),
        both("maximum", "baseline", 0.02, gain=0.2),
    ]
    clamped, stretched = build([save(tmp_path / "s.json", rows)], tmp_path).boards
    assert [board.convention for board in (clamped, stretched)] == list(CONVENTIONS)
    assert [(e.row.method, e.rank) for e in clamped.entries] == [
        *(("ours", 1), ("maximum", 2), ("old", 3), ("average", 4)),
    ]
    assert [(e.row.method, e.rank) for e in stretched.entries] == [
        *(("maximum", 1), ("ours", 2), ("theirs", 3), ("average", 4)),
    ]
    assert clamped.reference == "ours" and stretched.reference == "maximum"
    assert {c.method for c in stretched.comparisons} == {"ours", "theirs", "average"}
    assert "VIF" in clamped.entries[0].best and "VIF" in stretched.entries[0].best
    assert "theirs" in clamped.notes[0] and "old" in stretched.notes[0]
    # The page and the Markdown have both tables, each under its heading.
    page, text = ((tmp_path / name).read_text(encoding="utf-8") for name in ("index.html", "leaderboard.md"))
    for title in report.TITLES.values():
        assert f">{title}</h3>" in page and f"### {title} (12 images)" in text
    labels = [a["aria-label"] for a in Page(page).all("div") if str(a.get("aria-label")).startswith("Table of toy")]
    assert labels == ["Table of toy, clamped", "Table of toy, stretched"]


def test_a_file_without_conventions_gives_the_clamped_table_alone(tmp_path: Path) -> None:
    (board,) = build([save(tmp_path / "s.json", [entry("ours"), *baselines()])], tmp_path).boards
    assert board.convention == "clamped" and not board.notes


def test_damaged_stretched_values_are_refused(tmp_path: Path) -> None:
    row = both("ours")
    row["minmax"]["metrics"]["EN"]["mean"] = 3.0
    with pytest.raises(ValueError, match=r"'ours'\): minmax: EN: the mean is 3"):
        build([save(tmp_path / "s.json", [row])], tmp_path)
    row["minmax"] = "yes"
    with pytest.raises(ValueError, match="'minmax': expected an object, got a text"):
        build([save(tmp_path / "s.json", [row])], tmp_path)


def test_published_rows_are_in_the_table_of_their_convention() -> None:
    published = read_published()
    found = {(row.method, row.convention) for row in published.sets["tno/test"]}
    again = ("SeAFusion (published images)", "DenseFuse (published images)")
    stretched = ("CDDFuse", *again, "SDNet", "RFN-Nest", "U2Fusion")
    assert {(method, "stretched") for method in (*stretched, "PMGI", "FusionGAN", "SeAFusion")} <= found
    clamped = ("IFCNN", "SwinFusion", "PIAFusion", "DIDFuse", "GTF", "PSFusion", "UMF-CMGR", "SeAFusion", "DenseFuse")
    assert {(method, "clamped") for method in clamped} <= found
    unknown = dataclasses.replace(published.sets["tno/test"][0], method="new", convention="unknown")
    (board, _) = assemble(
        [dataclasses.replace(unknown, method="m", kind="model")],
        dataclasses.replace(published, sets={"tno/test": [*published.sets["tno/test"], unknown]}),
    ).boards
    (row,) = [e for e in board.entries if e.row.method == "new"]
    assert board.convention == "clamped" and row.notes == ("It is not known whether these images were stretched.",)


def of_the_published_pairs(rows: list[dict[str, Any]], dataset: str, n: int) -> list[dict[str, Any]]:
    """Rows whose average is that of the published pairs."""
    known = next(row for row in read_published().baselines[dataset] if row.method == "average")
    for row in rows:
        row |= {"n": n, "per_image": None}
        if row["method"] == "average":
            row["metrics"] = row["metrics"] | {name: {"mean": value} for name, value in known.values.items()}
    return rows


def test_published_rows_do_not_join_other_pictures_of_the_same_name(tmp_path: Path) -> None:
    rows = of_the_published_pairs(baselines("msrs/test"), "msrs/test", 92)
    rows[0]["metrics"]["SF"] = {"mean": 1.02 * rows[0]["metrics"]["SF"]["mean"]}
    (board,) = build([save(tmp_path / "s.json", rows)], tmp_path).boards
    assert {entry.row.kind for entry in board.entries} == {"baseline"} and not board.printed
    assert board.title == "msrs/test"
    assert "other pictures under the same name: the SF of the average is 6.16 here and 6.04 there" in board.notes[0]


def test_measured_baselines_replace_published_ones(tmp_path: Path) -> None:
    rows = of_the_published_pairs(baselines("msrs/test"), "msrs/test", 92)
    (board,) = build([save(tmp_path / "s.json", rows)], tmp_path).boards
    kinds = {e.row.method: e.row.kind for e in board.entries if e.row.baseline}
    assert kinds == dict.fromkeys(("average", "maximum"), "baseline") | dict.fromkeys(
        ("guided_filter", "laplacian"), "published"
    )
    assert {table.same_pairs for table in board.printed} == {False}


def test_published_file_is_complete_and_in_range() -> None:
    published = read_published()
    sizes = {"tno/test": 25, "roadscene/test": 50, "msrs/test": 92, "mri_ct/test": 21}
    assert {name: rows[0].n for name, rows in published.sets.items()} == sizes
    for name, rows in published.sets.items():
        together = [*rows, *published.baselines[name]]
        assert len({(row.method, row.convention) for row in together}) == len(together)
        assert {"average", "maximum", "laplacian", "guided_filter"} <= {row.method for row in published.baselines[name]}
        for row in together:
            assert row.source and set(RANK_METRICS) <= set(row.values)
            for metric in set(row.values) & set(METRICS):
                assert METRICS[metric].range[0] <= row.values[metric] <= METRICS[metric].range[1]
            assert row.convention in CONVENTIONS
    # Noise-like images that one collection has under this name: the row listed is another.
    tardal = next(row for row in published.sets["tno/test"] if row.method == "TarDAL")
    assert tardal.values["SF"] < 10


def test_printed_tables_agree_with_the_measured_rows_where_the_pairs_are_the_same() -> None:
    published = read_published()
    checked = 0
    for table in published.printed:
        assert table.same_pairs == (table.dataset in published.sets and "MSRS" not in table.title)
        assert table.same_pairs or "NOT comparable" in table.note
        if table.same_pairs:
            measured = {row.method: row.values for row in published.sets[table.dataset or ""]}
            for row in table.rows:
                if row.method.startswith("CDDFuse"):
                    for metric, value in row.values.items():
                        assert value == pytest.approx(measured[row.method][metric], abs=0.0051)
                    checked += 1
    assert checked == 4


def _edited(edit: Callable[[dict[str, Any]], Any]) -> str:
    content = {"format": "fusion-hub-evaluation/1", "rows": [entry("ours")], "provenance": {}}
    edit(content)
    return json.dumps(content)


def _row(**values: Any) -> str:
    return _edited(lambda content: content["rows"][0].update(values))


def _metric(**values: Any) -> str:
    return _edited(lambda content: content["rows"][0]["metrics"]["EN"].update(values))


MALFORMED = {
    "not JSON": ("{rows", "cannot be read as JSON"),
    "binary": ("\x00\x01", "cannot be read as JSON"),
    "deep": ("[" * 100_000, "cannot be read as JSON"),
    "a list": ("[]", "its format is unknown"),
    "format": (_edited(lambda c: c.update(format="other/9")), "its format is other/9"),
    "no format": (_edited(lambda c: c.pop("format")), "its format is unknown"),
    "no rows": (_edited(lambda c: c.pop("rows")), "'rows' is missing"),
    "empty": (_edited(lambda c: c.update(rows=[])), "no rows"),
    "row": (_edited(lambda c: c.update(rows=["x"])), r"rows\[0\]: expected an object, got a text"),
    "no method": (_edited(lambda c: c["rows"][0].pop("method")), "'method' is missing"),
    "no metrics": (_edited(lambda c: c["rows"][0].pop("metrics")), r"'ours'.*'metrics' is missing"),
    "no mean": (_edited(lambda c: c["rows"][0]["metrics"]["EN"].pop("mean")), "'mean' is missing"),
    "kind": (_row(kind="winner"), "kind is 'winner'"),
    "n": (_row(n=0), "n is 0"),
    "n text": (_row(n="12"), "'n': expected a whole number, got a text"),
    "n bool": (_row(n=True), "'n': expected a whole number, got true or false"),
    "n differs": (_row(n=13), "12 names, but n is 13"),
    "nan": (_metric(mean=math.nan), "it holds NaN"),
    "infinite": (_metric(low=-math.inf), "it holds -Infinity"),
    "huge": (_edited(lambda c: None).replace('"mean": 0.', '"mean": 1e999', 1), "finite number"),
    "huge integer": (_metric(mean=10**400), "finite number"),
    "text": (_metric(mean="7"), "EN mean: expected a number"),
    "short": (_edited(lambda c: c["rows"][0]["per_image"]["values"]["EN"].pop()), "11 values for 12 images"),
    "twice": (_edited(lambda c: c["rows"][0]["per_image"].update(names=["x"] * 12)), "a name twice"),
    "warnings": (_row(warnings=[1]), "warnings: expected a text, got a whole number"),
    "mean": (_metric(mean=7.9), "the mean is 7.9, but that of"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_files_are_refused_by_name(tmp_path: Path, name: str) -> None:
    text, message = MALFORMED[name]
    path = tmp_path / "wrong.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        build([path], tmp_path / "out")
    assert str(path) in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_undefined_values_are_null(tmp_path: Path) -> None:
    row = entry("ours")
    row["metrics"]["EN"] = {"mean": None, "low": None, "high": None}
    row["per_image"]["values"]["EN"] = [None] * 12
    row["per_image"]["values"]["VIF"][0] = None
    row["metrics"]["VIF"]["mean"] = float(np.mean(row["per_image"]["values"]["VIF"][1:]))
    (read,), _ = read_evaluation(save(tmp_path / "s.json", [row]))
    assert "EN" not in read.metrics and np.isnan(read.per_image["VIF"]).tolist() == [True, *[False] * 11]
    board = build([tmp_path / "s.json"], tmp_path)
    assert board.boards[0].entries[0].rank is None
    assert "nan" not in re.findall(r"[a-z]+", (tmp_path / "leaderboard.md").read_text().lower())


def test_other_wrong_arguments(tmp_path: Path) -> None:
    path = save(tmp_path / "s.json", [entry("ours")])
    with pytest.raises(FileNotFoundError, match="no such file"):
        build([tmp_path / "nowhere.json"], tmp_path)
    for paths, ranked, message in (
        ([], RANK_METRICS, "evaluations is empty"),
        ([path], ["beauty"], "unknown metrics 'beauty'"),
        ([path], [], "rank_metrics is empty"),
    ):
        with pytest.raises(ValueError, match=message):
            build(paths, tmp_path, rank_metrics=ranked)


VOID = {"meta", "line", "rect", "path", "circle", "br", "wbr"}


class Page(HTMLParser):
    """Elements with their attributes; complains about tags that are not closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        closes_itself = tag in VOID and not (self.get_starttag_text() or "").endswith("/>")
        if tag not in VOID or (closes_itself and tag in ("rect", "path", "circle")):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def all(self, *tags: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.elements if tag in tags]


EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)> {{ 7*7 }} | ![p](http://x) `c` **b** </style>"


@pytest.fixture(scope="module")
def evil(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pages from a file in which every text is an attack."""
    folder = tmp_path_factory.mktemp("evil")
    rows = [
        entry(EVIL, dataset=EVIL, source=EVIL, warnings=[EVIL], shift=0.1),
        entry("other" + EVIL, "folder", EVIL),
        *baselines(EVIL),
    ]
    rows[0]["metrics"][EVIL] = {"mean": 1.0}
    for row in rows:
        row["per_image"]["names"][0] = EVIL
    path = save(folder / "summary.json", rows, provenance={EVIL: EVIL, "conventions": {EVIL: EVIL}})
    build([path, save(folder / "two.json", [entry("x")], provenance={"conventions": {EVIL: "y"}})], folder)
    return folder


def test_the_page_escapes_text_from_files_and_requests_nothing(evil: Path) -> None:
    text = (evil / "index.html").read_text(encoding="utf-8")
    page = Page(text)
    assert len(page.all("script")) == 1 and not page.all("img", "iframe", "object", "link")
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)
    assert EVIL in "".join(page.text)  # shown as it is, and not run as a template
    assert text.count("<style>") == text.count("</style>") == 1
    assert not any("src" in attributes or "srcset" in attributes for _, attributes in page.elements)
    assert all((attributes.get("href") or "#").startswith("#") for _, attributes in page.elements)
    css = text[text.index("<style>") : text.index("</style>")]
    assert "url(" not in css and "@import" not in css and "prefers-color-scheme: dark" in css
    (policy,) = [a["content"] for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    script = text[text.rindex("<script>") + len("<script>") : text.rindex("</script>")]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy is not None and "default-src 'none'" in policy and f"script-src 'sha256-{digest}'" in policy


def test_text_from_files_is_escaped_in_markdown(evil: Path) -> None:
    text = (evil / "leaderboard.md").read_text(encoding="utf-8")
    assert set(re.findall(r"<\w+", text)) <= {"<br", "<sub", "<sup", "<u"}
    assert "](" not in text.replace("\\](", "") and "`" not in text.replace("\\`", "")
    rows = [re.findall(r"(?<!\\)\|", line) for line in text.splitlines() if line.startswith("|")]
    assert {len(cells) for cells in rows[:6]} == {len(rows[0])}  # no cell was broken in two


def test_page_is_accessible(tmp_path: Path) -> None:
    rows = [entry("ours", dataset="tno/test", n=25, per_image=None), entry("ours"), *baselines()]
    build([save(tmp_path / "s.json", rows)], tmp_path)
    text = (tmp_path / "index.html").read_text(encoding="utf-8")
    page = Page(text)
    assert page.all("html")[0]["lang"] == "en"
    assert text.count("<caption>") == len(page.all("table")) >= 4
    assert all(heading.get("scope") in ("row", "col") for heading in page.all("th"))
    ids = [str(attributes["id"]) for _, attributes in page.elements if "id" in attributes]
    assert len(set(ids)) == len(ids)
    for _, attributes in page.elements:
        for name in str(attributes.get("aria-labelledby") or "").split():
            assert name in ids
        if str(attributes.get("href", "")).startswith("#"):
            assert str(attributes["href"])[1:] in ids
    plots = [svg for svg in page.all("svg") if "aria-hidden" not in svg]
    assert len(plots) == 5  # two scatters for each set, and one for stretched rows, which have no values per source
    assert all(svg.get("role") == "img" and svg.get("aria-labelledby") for svg in plots)


def test_tables_fit_a_common_screen_and_no_room_is_empty(tmp_path: Path) -> None:
    rows = [entry("ours", dataset="tno/test", n=25, per_image=None)]
    build([save(tmp_path / "s.json", rows)], tmp_path)
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.goto((tmp_path / "index.html").as_uri())
        assert page.locator("table").first.locator("tbody tr").count() > 15, "with the published rows"
        wide = page.locator(".scroll").evaluate_all("all => all.filter(e => e.scrollWidth > e.clientWidth).length")
        assert not wide and page.evaluate("document.documentElement.scrollWidth") <= 1280
        bars = page.locator("table").first.locator(".bar").evaluate_all("all => all.map(e => e.clientWidth)")
        assert bars == sorted(bars) and bars[0] < bars[-1], "a bar for each mean rank, the best first"
        tops = page.locator("figure").evaluate_all("all => all.map(e => e.getBoundingClientRect().top)")
        assert len(tops) == 3 and len(set(tops[:2])) == 1, "side by side"


def test_balance_plot_shows_the_distance_to_the_diagonal(tmp_path: Path) -> None:
    row = entry("ours", per_image=None)
    row["metrics"] |= {"VIF_visible": {"mean": 0.5}, "VIF_infrared": {"mean": 0.3}}
    build([save(tmp_path / "s.json", [row])], tmp_path, published=False)
    assert f"{0.2 / math.sqrt(2):.3f} from the diagonal" in (tmp_path / "index.html").read_text()


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.floats(46, 468), st.floats(12, 338), st.integers(1, 26)), min_size=1, max_size=30))
def test_labels_never_overlap(drawn: list[tuple[float, float, int]]) -> None:
    points = [Point(x, y, "model", "t", "m" * length) for x, y, length in drawn]
    place_labels(points)
    boxes = [box for point in points for position, box in label_boxes(point) if position == point.label_at]
    assert len(boxes) == sum(point.label_at is not None for point in points)
    for i, (left, top, right, bottom) in enumerate(boxes):
        assert left >= 0 and right <= WIDTH and top >= 0 and bottom <= HEIGHT
        assert not any(overlap(boxes[i], other) for other in boxes[i + 1 :])


def test_assemble_without_files() -> None:
    board = assemble([in_memory("a", np.full(12, 0.4)), in_memory("b", np.full(12, 0.5))], rank_metrics=["VIF"])
    assert [e.row.method for e in board.boards[0].entries] == ["b", "a"]
    assert "| b " in board.markdown() and "<td" in board.html()
