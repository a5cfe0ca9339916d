"""One folder, one commit, one tag: against a local Hub, with every failure on the way."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import close_session, constants

from fusion_hub.hub import PublishError
from fusion_hub.hub import upload as uploading
from fusion_hub.hub.upload import PlannedFile, Published, explain, plan, upload
from tests.support.hub_repository import Repository
from tests.support.hub_server import READ_TOKEN, TOKEN, HubServer

KEPT = {".gitattributes"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two large files and three small ones."""
    folder = tmp_path_factory.mktemp("upload") / "folder"
    (folder / "model").mkdir(parents=True)
    (folder / "README.md").write_text("---\nlicense: mit\n---\nA card.\n")
    (folder / "empty.txt").write_text("")
    (folder / "model" / "config.json").write_text("{}\n")
    for number, name in enumerate(("a", "b")):
        (folder / "model" / f"{name}.safetensors").write_bytes(bytes([number]) * 200_000)
    return folder


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubServer]:
    """A Hub for the client of this process, which does not wait between its attempts."""
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    with HubServer() as hub:
        hub.redirect(monkeypatch, tmp_path)
        yield hub
    close_session()


def publish(folder: Path, repo_id: str = "tester/x", **settings: Any) -> Published:
    return upload(folder, repo_id, message="a test", **{"tag": "v1", **settings})


def refusal(folder: Path, repo_id: str = "tester/x", **settings: Any) -> str:
    with pytest.raises(PublishError) as refused:
        publish(folder, repo_id, **settings)
    assert TOKEN not in str(refused.value) and "\n" not in str(refused.value)
    return str(refused.value)


def paths(folder: Path) -> set[str]:
    return {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}


def holds(repository: Repository, folder: Path) -> bool:
    contents = {path: content for path, content in repository.files.items() if path not in KEPT}
    return contents == {path: (folder / path).read_bytes() for path in paths(folder)}


def is_whole(repository: Repository, folder: Path, commits: int = 2) -> bool:
    tagged = repository.tags == {"v1": repository.head.oid}
    return holds(repository, folder) and tagged and len(repository.commits) == commits


# --- the plan --------------------------------------------------------------------------------------------------------


def test_plan(folder: Path) -> None:
    files = plan(folder)
    assert [file.path for file in files] == sorted(paths(folder))
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert PlannedFile("empty.txt", 0, empty) in files


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: (f / "link.txt").symlink_to("a.txt"), "link.txt is a link"),
        (lambda f: (f / ".env").write_text("x"), ".env is hidden"),
        (lambda f: (f / ".cache").mkdir(), ".cache is hidden"),
        (lambda f: (f / "weights.PT").write_text("x"), "weights.PT looks like a pickle"),
        (lambda f: (f / "a.txt").unlink(), "holds no files"),
    ],
)
def test_plan_refuses(tmp_path: Path, spoil: Callable[[Path], object], message: str) -> None:
    (tmp_path / "a.txt").write_text("a")
    spoil(tmp_path)
    with pytest.raises(PublishError, match=message):
        plan(tmp_path)


# --- success ---------------------------------------------------------------------------------------------------------


def test_one_commit_one_tag_and_again_nothing(hub: HubServer, folder: Path, tmp_path: Path) -> None:
    published = publish(folder)
    repository = hub.repository("tester/x")
    assert [commit.title for commit in repository.commits] == ["initial commit", "a test"]
    assert is_whole(repository, folder)
    commit = repository.head.oid
    assert published == Published("tester/x", "model", commit, "v1", f"{hub.endpoint}/tester/x", new_tag=True)
    large = {path for path, blob in repository.head.blobs.items() if blob.lfs}
    assert large == {"model/a.safetensors", "model/b.safetensors"}
    assert publish(folder).new_tag is False and len(repository.commits) == 2

    # Another folder: files that it lacks are deleted, and large files that are there are not sent again.
    other = tmp_path / "other"
    (other / "model").mkdir(parents=True)
    (other / "README.md").write_text("Another card.\n")
    (other / "model" / "a.safetensors").write_bytes((folder / "model" / "a.safetensors").read_bytes())
    sent = hub.count("PUT /lfs/")
    assert publish(other, tag=None).commit == repository.head.oid
    publish(other, tag="v2")
    assert holds(repository, other) and repository.tags == {"v1": commit, "v2": repository.head.oid}
    assert hub.count("PUT /lfs/") == sent and len(repository.commits) == 3

    # v1 still is the first version.
    requests = len(hub.requests)
    assert f"the tag v1 of tester/x marks another version, commit {commit[:8]}" in refusal(other)
    assert all(request.startswith("GET") for request in hub.requests[requests:])
    assert publish(folder).commit == commit and len(repository.commits) == 3


@pytest.mark.parametrize("kind", ["dataset", "space"])
def test_other_kinds(hub: HubServer, folder: Path, kind: str) -> None:
    sdk = {"space_sdk": "gradio"} if kind == "space" else {}
    published = publish(folder, "lab/other", repo_type=kind, private=True, **sdk)
    repository = hub.repository("lab/other", kind)
    assert is_whole(repository, folder) and repository.private
    assert repository.settings.get("sdk") == sdk.get("space_sdk")
    assert published.url == f"{hub.endpoint}/{kind}s/lab/other" and "lab/other" not in hub.repositories


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("repo_id", "settings", "message"),
    [
        ("tester/x", {"token": "hf_wrong"}, "does not accept the token .* log in with `hf auth login`"),
        ("tester/x", {"token": READ_TOKEN}, "may not write to tester/x .*403"),
        ("stranger/x", {}, 'may not write to stranger/x .*"stranger"'),
        ("x", {}, "'x' lacks the owner"),
        ("tester/a b", {}, "'tester/a b' is not a valid repository name"),
        ("tester/x", {"tag": "v 1"}, "'v 1' is not a valid tag"),
        ("tester/x", {"tag": "main"}, "'main' is not a valid tag"),
        ("tester/public", {"private": True}, "tester/public exists and is public"),
    ],
)
def test_refusals(hub: HubServer, folder: Path, repo_id: str, settings: dict[str, Any], message: str) -> None:
    hub.repositories["tester/public"] = Repository({"here.txt": b"before"})
    assert re.search(message, refusal(folder, repo_id, **settings))
    assert hub.repositories.keys() == {"tester/public"}
    assert hub.repository("tester/public").files.keys() == {"here.txt"} | KEPT


def test_no_token_and_no_network(hub: HubServer, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "")
    assert "there is no token for the Hub: log in" in refusal(folder)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set" in refusal(folder)
    assert not hub.requests


def test_a_card_that_the_hub_refuses(hub: HubServer, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("---\nlicense: [mit\n---\n")
    assert "Invalid metadata in README.md" in refusal(tmp_path)
    assert hub.repository("tester/x").files.keys() == KEPT and not hub.repository("tester/x").tags


# --- failures --------------------------------------------------------------------------------------------------------


def test_somebody_else_commits_meanwhile(hub: HubServer, folder: Path) -> None:
    theirs = hub.repositories["tester/x"] = Repository({"README.md": b"ours"})
    hub.fault("call", "POST", "/preupload/", action=lambda: theirs.put({"theirs.txt": b"theirs"}))
    assert "somebody else changed tester/x in the meantime (412), so nothing was published" in refusal(folder)
    assert theirs.files.keys() == {"README.md", "theirs.txt"} | KEPT and not theirs.tags
    publish(folder)
    assert is_whole(theirs, folder, commits=3)


def test_lost_answers_do_not_commit_twice(hub: HubServer, folder: Path) -> None:
    hub.fault("lose", "POST", "/commit/")
    hub.fault("lose", "POST", "/tag/")
    publish(folder)
    assert is_whole(hub.repository("tester/x"), folder)


def test_what_the_hub_stored_is_compared_before_the_tag(hub: HubServer, folder: Path) -> None:
    repository = hub.repositories["tester/x"] = Repository()

    def alter() -> None:
        if len(repository.commits) == 2:
            repository.put({"model/config.json": b"[]\n"})
            wrong = repository.commits.pop().blobs
            repository.commits[-1] = type(repository.head)(repository.head.oid, "a test", wrong)

    hub.fault("call", "GET", "/tree/", action=alter, times=9)
    assert "did not store tester/x as it was sent (model/config.json in commit" in refusal(folder)
    assert not repository.tags
    hub.faults.clear()
    publish(folder)
    assert is_whole(repository, folder, commits=3)


def test_a_busy_hub_is_asked_again(hub: HubServer, folder: Path) -> None:
    for method, path, times in (
        *(("POST", "/repos/create", 2), ("POST", "/preupload/", 1), ("PUT", "/lfs/", 2), ("POST", "/commit/", 2)),
        *(("GET", "/tree/", 1), ("POST", "/tag/", 1)),
    ):
        hub.fail(method, path, 503, times=times)
    publish(folder)
    assert all(fault.seen > fault.times for fault in hub.faults)
    assert is_whole(hub.repository("tester/x"), folder)


def test_a_hub_that_stays_busy(hub: HubServer, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr(uploading.time, "sleep", waited.append)
    hub.fail("POST", "/commit/", 503, times=1000)
    assert "busy or broken (status 503): run the same command again later to resume" in refusal(folder)
    assert waited[-3:] == [1.0, 2.0, 4.0]
    repository = hub.repository("tester/x")
    assert len(repository.commits) == 1 and not repository.tags
    hub.faults.clear()
    publish(folder)
    assert is_whole(repository, folder)
    assert hub.count("PUT /lfs/") == 2  # not sent again


def test_the_hub_dies_in_the_middle_of_an_upload(hub: HubServer, folder: Path) -> None:
    hub.fault("die", "PUT", "/lfs/", after=1)
    assert "the connection to the Hub failed" in refusal(folder)
    repository = hub.repository("tester/x")
    assert len(repository.commits) == 1 and not repository.tags
    stored, before = set(hub.objects), len(hub.requests)
    assert len(stored) == 1
    hub.start()
    publish(folder)
    assert is_whole(repository, folder)
    sent = [request for request in hub.requests[before:] if request.startswith("PUT")]
    assert len(sent) == 1 and not any(oid in sent[0] for oid in stored)


def test_errors_of_uploads_beside_a_failed_one() -> None:
    """The one that cannot connect closes the client of the others; what they raise then differs from run to run."""
    for raised in (RuntimeError("the client has been closed"), AttributeError("no attribute 'request'")):
        wrapper = RuntimeError("Error while uploading 'a.safetensors' to the Hub.")
        wrapper.__cause__ = raised
        expected = "the connection to the Hub failed (Error while uploading 'a.safetensors' to the Hub.)"
        assert explain(wrapper, "tester/x").startswith(expected)
