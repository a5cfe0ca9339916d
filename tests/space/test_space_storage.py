"""Files of visitors: gone after an hour and after the server's end, never more than the disk may hold."""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import storage
from space_load import Page

from tests.support.space_page import wait_for_examples

MIB = 1 << 20
OLD = time.time() - 2 * storage.LIFETIME


def write(path: Path, age: float = OLD, size: int = 1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(size))
    os.utime(path, (age, age))
    return path


def test_old_files_go_and_others_stay(tmp_path: Path) -> None:
    own = tmp_path / f"{storage.PREFIX}own"
    outside = write(tmp_path / "gradio" / "photo.png")  # of another program
    stays = [
        write(own / "hash" / "new.png", time.time()),
        write(own / f"{storage.EXAMPLES_PREFIX}x" / "street.png"),
        outside,
        write(tmp_path / "fusion_hub_other" / "old.png"),
    ]
    goes = [write(own / "hash" / "old.png"), write(own / "tmpupload"), write(own / "a" / "b" / "c" / "old.png")]
    (own / "link").symlink_to(outside.parent)
    (own / "link.png").symlink_to(outside)
    for name in ("empty", "link", "link.png"):
        if name == "empty":
            (own / name).mkdir()
        os.utime(own / name, (OLD, OLD), follow_symlinks=False)
    (tmp_path / f"{storage.PREFIX}link").symlink_to(outside.parent)

    storage.sweep(own)
    assert all(path.exists() for path in stays) and not any(path.exists() for path in goes)
    assert not (own / "link").is_symlink() and not (own / "link.png").is_symlink() and not (own / "empty").exists()
    assert (tmp_path / f"{storage.PREFIX}link").is_symlink(), "it may be anybody's"
    os.utime(own / "a" / "b" / "c", (OLD, OLD))
    storage.sweep(own)
    assert not (own / "a" / "b" / "c").exists(), "an old folder goes once it is empty"


def test_what_a_killed_server_left_goes(tmp_path: Path) -> None:
    own, killed, beside = (tmp_path / f"{storage.PREFIX}{name}" for name in ("own", "killed", "beside"))
    own.mkdir()
    left = write(killed / f"{storage.EXAMPLES_PREFIX}x" / "street.png")
    os.utime(killed, (OLD, OLD))
    theirs = write(beside / "hash" / "new.png", time.time())
    upload = write(beside / "hash" / "old.png")
    os.utime(own, (OLD, OLD))
    storage.sweep(own)
    assert not left.exists() and not killed.exists() and not upload.exists()
    assert theirs.exists() and own.exists(), "of servers that run"


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    monkeypatch.setattr(storage, "MAX_DISK", 10 * MIB)
    return tmp_path


def test_requests_together_stay_within_the_bound(small: Path) -> None:
    write(small / "there.png", size=2 * MIB)
    with storage.Room(5 * MIB) as first, storage.Room(3 * MIB):
        with pytest.raises(storage.NoRoom, match="full for now"):
            storage.Room(1)
        first.written(4 * MIB)
        write(small / "upload.png", size=4 * MIB)
        with pytest.raises(storage.NoRoom):  # what is written counts once
            storage.Room(1)
    with storage.Room(4 * MIB):
        pass
    storage.Room(4 * MIB).written(9 * MIB)
    with storage.Room(4 * MIB):
        pass


def test_a_bound_is_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(storage.DISK_VARIABLE, "7")
    assert storage.mebibytes(storage.DISK_VARIABLE, 1) == 7 * MIB
    for text in ("much", "-1", "0", "1.5"):
        monkeypatch.setenv(storage.DISK_VARIABLE, text)
        with pytest.raises(SystemExit, match=f"{storage.DISK_VARIABLE} must be a whole number of MiB"):
            storage.mebibytes(storage.DISK_VARIABLE, 1)


def upload(page: Page, **options: Any) -> httpx.Response:
    return httpx.post(f"{page.url}/gradio_api/upload", timeout=30, **options)


def kept(page: Page) -> int:
    return sum(path.stat().st_size for path in page.files.rglob("*") if path.is_file())


def test_uploads_are_bounded(space_page: Page) -> None:
    """For the page of this session 48 MiB are allowed at a time."""
    wait_for_examples(space_page)
    before, log = kept(space_page), space_page.log.stat().st_size
    answer = upload(space_page, files=[("files", (f"{index}.png", bytes(25 * MIB))) for index in range(2)])
    assert answer.status_code == 413 and answer.text == "At most 48 MiB are allowed at a time."

    def pieces() -> Iterator[bytes]:  # without an announced size
        for index in range(4):
            head = f'--abc\r\nContent-Disposition: form-data; name="files"; filename="{index}.png"\r\n\r\n'
            yield head.encode() + bytes(16 * MIB) + b"\r\n"

    answer = upload(space_page, content=pieces(), headers={"content-type": "multipart/form-data; boundary=abc"})
    assert answer.status_code == 413 and kept(space_page) == before, "what was written is deleted"

    [own] = space_page.files.glob(f"{storage.PREFIX}*")  # what a killed server left is deleted
    files = [("files", ("small.png", bytes(MIB)))]
    with (own / "full").open("wb") as file:
        file.truncate(storage.MAX_DISK - MIB // 2 - before)
    assert upload(space_page, files=files).status_code == 507
    assert "try again" in upload(space_page, files=files).text
    (own / "full").unlink()
    assert upload(space_page, files=files).status_code == 200
    assert b"Traceback" not in space_page.log.read_bytes()[log:]


def test_refused_calls_leave_a_line_in_the_log(space_page: Page) -> None:
    file = {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}
    calls = {
        "fuse": [file, file, "difffusenet-msrs"],
        "detect": [None, None, "difffusenet-msrs", "a"],
        "explain": [None, None, "../../x"],
        "batch": [[file], "difffusenet-msrs"],
        "nothing": [],
    }
    wait_for_examples(space_page)  # the log has its first lines by then
    for name, data in calls.items():
        before = space_page.log.stat().st_size
        answer = httpx.post(f"{space_page.url}/gradio_api/call/{name}", json={"data": data})
        if answer.status_code == httpx.codes.OK:
            event = answer.json()["event_id"]
            answer = httpx.get(f"{space_page.url}/gradio_api/call/{name}/{event}", timeout=60)
            assert "event: error" in answer.text
        with space_page.log.open("rb") as log:
            log.seek(before)
            lines = log.read().decode().splitlines()
        assert len(lines) <= 1 and not any("Traceback" in line for line in lines), lines


def test_calls_may_leave_the_last_arguments_out(space_page: Page) -> None:
    call = f"{space_page.url}/gradio_api/call/fuse"
    event = httpx.post(call, json={"data": [None, None, "difffusenet-msrs", "all", "Visible"]}).json()["event_id"]
    assert "Add the visible image first" in httpx.get(f"{call}/{event}", timeout=60).text
