"""One folder, one commit, one tag: against a local Hub, with all that can go wrong on the way.

Each client is a process of its own. Those that wait (the client tries again after 1, 2, 4 ... seconds) are started
before the first test and looked at by theirs.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fusion_hub.hub import PublishError
from fusion_hub.hub.upload import PlannedFile, _cause, _may_pass, _sentence, plan
from tests.support.hub_repository import Repository
from tests.support.hub_server import READ_TOKEN, TOKEN, HubServer

UPLOAD = """
import sys, json
from pathlib import Path
from fusion_hub.hub.upload import PublishError, upload
folder, repo_id, settings = Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
try:
    published = upload(folder, repo_id, message="a test", **settings)
except PublishError as error:
    print(error)
    sys.exit(1)
print(json.dumps(vars(published)))
"""


class Client:
    """One call of `upload` in another process."""

    def __init__(self, hub: HubServer, home: Path, folder: Path, repo_id: str, **settings: object) -> None:
        token = settings.pop("hf_token", TOKEN)
        environment = {**os.environ, **hub.environment(home, token), **settings.pop("environment", {})}
        arguments = [sys.executable, "-c", UPLOAD, str(folder), repo_id, json.dumps({"tag": "v1", **settings})]
        self.process = subprocess.Popen(
            arguments, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def finish(self) -> dict:
        """What it published."""
        output, errors = self.process.communicate(timeout=120)
        assert self.process.returncode == 0, output + errors
        return json.loads(output)

    def refusal(self) -> str:
        """The one sentence it failed with."""
        output, errors = self.process.communicate(timeout=120)
        assert self.process.returncode == 1 and "Traceback" not in errors, output + errors
        assert TOKEN not in output + errors
        assert output.count("\n") == 1
        return output.strip()


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


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def hub() -> Iterator[HubServer]:
    with HubServer() as hub:
        yield hub


@pytest.fixture(scope="module", autouse=True)
def waiting(hub: HubServer, home: Path, folder: Path) -> Iterator[dict[str, tuple[HubServer, Client]]]:
    """Clients that meet a Hub which is busy or dies; each has a Hub of its own, for the faults."""
    hubs = {name: HubServer() for name in ("busy", "forever", "dying")}
    for server in hubs.values():
        server.start()
    for method, path, times in BUSY:
        hubs["busy"].fail(method, path, 503, times=times)
    hubs["forever"].fail("POST", "/commit/", 503, times=1000)
    hubs["dying"].fault("die", "PUT", "/lfs/", after=1)
    clients = {name: (server, Client(server, home, folder, "tester/x")) for name, server in hubs.items()}
    yield clients
    for server, client in clients.values():
        client.process.kill()
        client.process.communicate()
        server.stop()


BUSY = (
    *(("POST", "/repos/create", 2), ("POST", "/preupload/", 1), ("PUT", "/lfs/", 2), ("POST", "/commit/", 2)),
    *(("GET", "/tree/", 1), ("POST", "/tag/", 1)),
)
KEPT = {".gitattributes"}


def paths(folder: Path) -> set[str]:
    return {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}


def holds(repository: Repository, folder: Path) -> bool:
    contents = {path: content for path, content in repository.files.items() if path not in KEPT}
    return contents == {path: (folder / path).read_bytes() for path in paths(folder)}


# --- the plan ---


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


# --- the way it goes ---


def test_one_commit_one_tag_and_again_nothing(hub: HubServer, home: Path, folder: Path, tmp_path: Path) -> None:
    published = Client(hub, home, folder, "tester/whole").finish()
    repository = hub.repository("tester/whole")
    assert [commit.title for commit in repository.commits] == ["initial commit", "a test"]
    assert holds(repository, folder)
    assert repository.tags == {"v1": repository.head.oid}
    assert published == {
        "repo_id": "tester/whole",
        "repo_type": "model",
        "commit": repository.head.oid,
        "tag": "v1",
        "url": f"{hub.endpoint}/tester/whole",
        "new_tag": True,
    }
    assert {path for path, blob in repository.head.blobs.items() if blob.lfs} == {
        "model/a.safetensors",
        "model/b.safetensors",
    }

    again = Client(hub, home, folder, "tester/whole").finish()
    assert again == {**published, "new_tag": False} and len(repository.commits) == 2

    # Another folder: what it lacks goes, unless it is to stay; large files that are there are not sent again.
    other = tmp_path / "other"
    (other / "model").mkdir(parents=True)
    (other / "README.md").write_text("Another card.\n")
    (other / "model" / "a.safetensors").write_bytes((folder / "model" / "a.safetensors").read_bytes())
    sent = hub.count("PUT /lfs/")
    Client(hub, home, other, "tester/whole", tag=None, exact=False).finish()
    assert set(repository.files) == paths(folder) | KEPT
    assert repository.files["README.md"] == b"Another card.\n"
    Client(hub, home, other, "tester/whole", tag="v2").finish()
    assert holds(repository, other) and repository.tags == {"v1": published["commit"], "v2": repository.head.oid}
    assert hub.count("PUT /lfs/") == sent

    # v1 is another version now; the first one is still what it was.
    requests = len(hub.requests)
    message = Client(hub, home, other, "tester/whole").refusal()
    assert f"the tag v1 of tester/whole is another version, of commit {published['commit'][:8]}" in message
    assert all(request.startswith("GET") for request in hub.requests[requests:])
    assert Client(hub, home, folder, "tester/whole").finish()["commit"] == published["commit"]
    assert len(repository.commits) == 4


@pytest.mark.parametrize("kind", ["dataset", "space"])
def test_other_kinds(hub: HubServer, home: Path, folder: Path, kind: str) -> None:
    sdk = {"space_sdk": "gradio"} if kind == "space" else {}
    published = Client(hub, home, folder, "lab/other", repo_type=kind, private=True, **sdk).finish()
    repository = hub.repository("lab/other", kind)
    assert holds(repository, folder) and repository.tags == {"v1": published["commit"]}
    assert repository.private and repository.settings.get("sdk") == sdk.get("space_sdk")
    assert published["url"] == f"{hub.endpoint}/{kind}s/lab/other"
    assert "lab/other" not in hub.repositories


# --- refusals ---


REFUSED: dict[str, tuple[dict, str]] = {
    "wrong token": ({"hf_token": "hf_wrong"}, "does not accept the token .* log in with `hf auth login`"),
    "no token": ({"hf_token": None}, "there is no token for the Hub: log in"),
    "token that may only read": ({"hf_token": READ_TOKEN}, "may not write to tester/refused .*403"),
    "somebody else's name": ({"repo_id": "stranger/refused"}, 'may not write to stranger/refused .*"stranger"'),
    "no owner": ({"repo_id": "refused"}, "'refused' lacks the owner"),
    "not a name": ({"repo_id": "tester/a b"}, "'tester/a b' cannot be the name of a repository"),
    "not a tag": ({"tag": "v 1"}, "'v 1' cannot be a tag"),
    "a branch": ({"tag": "main"}, "'main' cannot be a tag"),
    "offline": ({"environment": {"HF_HUB_OFFLINE": "1"}}, "HF_HUB_OFFLINE is set"),
    "public": ({"repo_id": "tester/public", "private": True}, "tester/public exists and is public"),
    "card": ({"repo_id": "tester/card"}, "Invalid metadata in README.md"),
}


def test_refusals(hub: HubServer, home: Path, folder: Path, tmp_path: Path) -> None:
    hub.repositories["tester/public"] = Repository({"here.txt": b"before"})
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "README.md").write_text("---\nlicense: [mit\n---\n")
    for kind, (settings, message) in REFUSED.items():
        settings = dict(settings)
        repo_id = settings.pop("repo_id", "tester/refused")
        source = broken if kind == "card" else folder
        found = Client(hub, home, source, repo_id, **settings).refusal()
        assert re.search(message, found), f"{kind}: {found}"
        assert "tester/refused" not in hub.repositories and "stranger/refused" not in hub.repositories
    assert hub.repository("tester/public").files.keys() == {"here.txt"} | KEPT
    assert hub.repository("tester/card").files.keys() == KEPT and not hub.repository("tester/card").tags


# --- faults ---


def test_somebody_else_commits_meanwhile(hub: HubServer, home: Path, folder: Path) -> None:
    theirs = hub.repositories["tester/stale"] = Repository({"README.md": b"ours"})
    hub.fault("call", "POST", "/tester/stale/preupload/", action=lambda: theirs.put({"theirs.txt": b"theirs"}))
    message = Client(hub, home, folder, "tester/stale").refusal()
    assert "somebody else has changed tester/stale meanwhile (412), so nothing was published" in message
    assert theirs.files.keys() == {"README.md", "theirs.txt"} | KEPT and not theirs.tags
    Client(hub, home, folder, "tester/stale", exact=False).finish()
    assert theirs.files.keys() == paths(folder) | {"theirs.txt"} | KEPT and theirs.tags == {"v1": theirs.head.oid}


def test_lost_answers_do_not_commit_twice(hub: HubServer, home: Path, folder: Path) -> None:
    hub.fault("lose", "POST", "/tester/lost/commit/")
    hub.fault("lose", "POST", "/tester/lost/tag/")
    Client(hub, home, folder, "tester/lost").finish()
    repository = hub.repository("tester/lost")
    assert [commit.title for commit in repository.commits] == ["initial commit", "a test"]
    assert holds(repository, folder) and repository.tags == {"v1": repository.head.oid}


def test_what_the_hub_stored_is_compared_before_the_tag(hub: HubServer, home: Path, folder: Path) -> None:
    repository = hub.repositories["tester/altered"] = Repository()

    def alter() -> None:
        repository.put({"model/config.json": b"[]\n"})
        wrong = repository.commits.pop().blobs
        repository.commits[-1] = type(repository.head)(repository.head.oid, "a test", wrong)

    hub.fault("call", "GET", "/tester/altered/tree/", after=1, action=alter)
    message = Client(hub, home, folder, "tester/altered").refusal()
    assert "did not store tester/altered as it was sent (model/config.json in commit" in message
    assert not repository.tags
    Client(hub, home, folder, "tester/altered").finish()
    assert holds(repository, folder) and repository.tags == {"v1": repository.head.oid}


def test_what_uploads_beside_a_dead_one_raise() -> None:
    """The one that cannot connect closes the client of the others; what they raise then differs from run to run."""
    for raised in (RuntimeError("the client has been closed"), AttributeError("no attribute 'request'")):
        wrapper = RuntimeError("Error while uploading 'a.safetensors' to the Hub.")
        wrapper.__cause__ = raised
        assert _may_pass(_cause(wrapper))
        sentence = _sentence(_cause(wrapper), "tester/x")
        assert sentence.startswith(
            "the connection to the Hub failed (Error while uploading 'a.safetensors' to the Hub.)"
        )


def test_a_busy_hub_is_asked_again(waiting: dict[str, tuple[HubServer, Client]], folder: Path) -> None:
    hub, client = waiting["busy"]
    client.finish()
    assert all(fault.seen > fault.times for fault in hub.faults)
    repository = hub.repository("tester/x")
    assert len(repository.commits) == 2 and holds(repository, folder)
    assert repository.tags == {"v1": repository.head.oid}


def test_a_hub_that_stays_busy(waiting: dict[str, tuple[HubServer, Client]], home: Path, folder: Path) -> None:
    hub, client = waiting["forever"]
    assert "busy or broken (it answers 503): run the same command again later, it goes on" in client.refusal()
    repository = hub.repository("tester/x")
    assert len(repository.commits) == 1 and not repository.tags
    hub.faults.clear()
    Client(hub, home, folder, "tester/x").finish()
    assert holds(repository, folder) and repository.tags == {"v1": repository.head.oid}
    assert hub.count("PUT /lfs/") == 2  # not sent again


def test_the_hub_dies_in_the_middle_of_an_upload(
    waiting: dict[str, tuple[HubServer, Client]], home: Path, folder: Path
) -> None:
    hub, client = waiting["dying"]
    assert "the connection to the Hub failed" in client.refusal()
    repository = hub.repository("tester/x")
    assert len(repository.commits) == 1 and not repository.tags
    stored, before = set(hub.objects), len(hub.requests)
    assert len(stored) == 1
    hub.start()
    Client(hub, home, folder, "tester/x").finish()
    assert holds(repository, folder) and len(repository.commits) == 2
    assert repository.tags == {"v1": repository.head.oid}
    sent = [request for request in hub.requests[before:] if request.startswith("PUT")]
    assert len(sent) == 1 and not any(oid in sent[0] for oid in stored)
