"""The load benchmark of the page: a few visitors for real, and that it sees what goes wrong."""

import json
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import pytest
import space_load
import torch
from PIL import Image
from space_load import Answer, Job, Page

JOBS = [Job(number, Path(), Path(), f"print {number}") for number in range(8)]
ANSWERS = [Answer(job.number, job.number % 2, job.expected, 1.0 + job.number, 0, 10.0 + job.number) for job in JOBS]
ARGUMENTS = Namespace(visitors=2, size=(64, 48), model="difffusenet-msrs")


def test_few_visitors_get_their_own_pictures(
    space_page: Page, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "load.json"
    threads = torch.get_num_threads()  # the page was started with as many
    flags = ["--visitors", "3", "--fusions", "9", "--size", "64", "48", "--threads", str(threads)]
    assert space_load.main([*flags, "--url", space_page.url, "--json", str(file)]) == 0
    content = json.loads(file.read_text())
    report = content["report"]
    assert (report["right"], report["lost"], report["mixed_up"], report["altered"]) == (9, 0, 0, 0)
    assert report["fusions"] == 9 and report["visitors"] == 3 and report["memory"] is None and not report["errors"]
    assert 0 < report["median"] <= report["p95"] <= report["longest"] <= report["seconds"] + 1
    assert content["provenance"]["threads"] == threads
    assert "| right " in capsys.readouterr().out


def test_memory_and_files_of_the_page_are_read(space_page: Page) -> None:
    with space_load.memory_log(space_page) as samples:
        start = samples[0][0]
    assert len(samples) >= 2 and min(size for _, size in samples) > 100
    answers = [replace(answer, ended=start + answer.job) for answer in ANSWERS]
    memory = space_load.summarize_memory(samples, space_page.disk_mib(), answers, start)
    assert memory["idle"] > 100 and memory["peak"] >= max(memory["quarters"]) and len(memory["quarters"]) == 4
    assert memory["grown"] == memory["quarters"][3] - memory["quarters"][1]
    assert memory["disk"] > 0


def test_what_goes_wrong_is_counted() -> None:
    answers = list(ANSWERS)
    answers[1] = replace(answers[1], got=None, error="AppError: no")
    answers[2] = replace(answers[2], got=JOBS[3].expected)
    answers[4] = replace(answers[4], got="nobody's", refusals=3)
    report = space_load.summarize(JOBS, answers, 9.0, ARGUMENTS, None)
    assert [report[name] for name in ("right", "lost", "mixed_up", "altered")] == [5, 1, 1, 1]
    assert report["refusals"] == 3 and report["errors"] == ["AppError: no"]
    assert [report[name] for name in ("seconds", "median", "p95", "longest")] == [8.0, 4.5, 8.0, 8.0]
    assert space_load.summarize(JOBS, ANSWERS, 9.0, ARGUMENTS, None)["right"] == len(JOBS)


def test_the_table_has_all_numbers() -> None:
    memory = {"idle": 500.0, "quarters": [600.0, 610.0, 611.0, 612.0], "peak": 640.0, "grown": 2.0, "disk": 30.0}
    report = space_load.summarize(JOBS, ANSWERS, 9.0, ARGUMENTS, memory)
    lines = space_load.table(report).splitlines()
    assert len({len(line) for line in lines}) == 1 and {line.count("|") for line in lines} == {3}
    assert "600, 610, 611, 612 MiB (+2 from the second to the last)" in "\n".join(lines)
    assert "8 of 64x48, difffusenet-msrs" in "\n".join(lines)


def test_a_fingerprint_is_of_pixels() -> None:
    gray = Image.new("L", (4, 2), 7)
    assert space_load.fingerprint(gray) == space_load.fingerprint(gray.copy())
    others = [Image.new("L", (2, 4), 7), Image.new("L", (4, 2), 8), gray.convert("RGB")]
    assert space_load.fingerprint(gray) not in map(space_load.fingerprint, others)


def test_a_page_that_does_not_start_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "app.py").write_text("raise SystemExit('no weights here')")
    monkeypatch.setattr(space_load, "SPACE", tmp_path)
    with pytest.raises(RuntimeError, match="no weights here"), space_load.serve(tmp_path):
        pass
