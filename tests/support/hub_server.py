"""A local Hub for the tests: the HTTP API of huggingface.co as far as the unpatched client needs it.

Models, datasets and Spaces; commits, branches and tags; LFS; private repositories; redirects to another host name and
ranges; and faults on demand. The client reads `HF_ENDPOINT` when it is imported, so it runs in a subprocess:

    with HubServer() as hub:
        subprocess.run([sys.executable, "-c", script], env={**os.environ, **hub.environment(cache)})
        assert hub.repository("tester/tiny").tags == {"v1": ...}

The standard library's server, because a fault needs the connection: `hub.fail("PUT", "/lfs/", status=503, times=2)`,
`hub.fault("truncate", "GET", "/lfs/")`. `stop()` refuses connections, `start()` serves the same repositories at the
same port again. Not served: Xet, pull requests, other branches than main.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any, Literal, Self
from urllib.parse import parse_qs, quote, unquote, urlsplit

import pytest
import yaml
from huggingface_hub import constants
from typer.testing import CliRunner

from fusion_hub.cli import app
from tests.support.hub_repository import Blob, HubError, Repository, is_lfs, list_folder

TOKEN, READ_TOKEN = "hf_test", "hf_read"
USER, ORGANIZATION = "tester", "lab"
PREFIXES = {"model": "", "dataset": "datasets/", "space": "spaces/"}
PAGE = 50

FaultKind = Literal["status", "lose", "die", "truncate", "short", "corrupt", "call"]


@dataclass
class Fault:
    """What goes wrong with matching requests: `times` times, after the first `after` went well."""

    kind: FaultKind
    method: str
    path: str
    status: int = 503
    times: float = 1
    after: int = 0
    action: Callable[[], object] | None = None
    seen: int = 0

    def strikes(self, method: str, path: str) -> bool:
        if method not in self.method.split("|") or not re.search(self.path, path):
            return False
        self.seen += 1
        return self.after < self.seen <= self.after + self.times


@dataclass(frozen=True)
class Request:
    """One request, as the actions below see it."""

    body: bytes
    query: Mapping[str, list[str]]
    token: str | None

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class HubServer:
    """Serves on a free port of this machine while the `with` block runs.

    Attributes:
        repositories: by id, `"owner/name"`, `"datasets/owner/name"`, `"spaces/owner/name"`.
        objects: LFS contents by their SHA-256, also those of uploads that were never committed.
        requests: `"METHOD path"` of every request so far.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.objects: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.faults: list[Fault] = []
        self.lock = threading.RLock()
        self.port = 0
        self._server: ThreadingHTTPServer | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Serve, at the same port as before."""
        handler = type("BoundHandler", (HubHandler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), handler)
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def stop(self) -> None:
        """Refuse connections; the repositories stay."""
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def environment(self, home: Path, token: str | None = TOKEN) -> dict[str, str]:
        """Variables that send a client here, with a cache of its own. Without a token it is nobody."""
        return {
            "HF_ENDPOINT": self.endpoint,
            "HF_TOKEN": token or "",
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_XET": "1",  # with Xet the client would upload elsewhere, whatever this server answers
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_OFFLINE": "0",
        }

    def redirect(self, patch: pytest.MonkeyPatch, home: Path, token: str | None = TOKEN) -> None:
        """Send the clients of this process here, with caches below `home`, for as long as the patch lasts."""
        import datasets

        for name, value in {
            "ENDPOINT": self.endpoint,
            "HUGGINGFACE_CO_URL_TEMPLATE": self.endpoint + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_OFFLINE": False,
            "HF_HUB_DISABLE_XET": True,
            "HF_TOKEN_PATH": str(home / "token"),
            "HF_HUB_CACHE": str(home / "hub"),
        }.items():
            patch.setattr(constants, name, value)
        for name, value in {
            "HF_ENDPOINT": self.endpoint,
            "HF_HUB_OFFLINE": False,
            "HF_DATASETS_CACHE": home / "datasets",
            "HF_MODULES_CACHE": home / "modules",
        }.items():
            patch.setattr(datasets.config, name, value)
        patch.setenv("HF_TOKEN", token or "")

    def invoke(self, home: Path, *command: object, token: str | None = TOKEN) -> tuple[int, str]:
        """Run `fusion-hub ...` in this process against this Hub; its exit code, and what it printed."""
        with pytest.MonkeyPatch.context() as patch:
            self.redirect(patch, home, token)
            result = CliRunner().invoke(app, [str(part) for part in command])
        assert TOKEN not in result.output and "Traceback" not in result.output
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result.exit_code, result.output

    def repository(self, name: str, kind: str = "model") -> Repository:
        key = f"{PREFIXES[kind]}{name}"
        if key not in self.repositories:
            raise HubError(404, "Repository not found", "RepoNotFound")
        return self.repositories[key]

    def visible(self, kind: str, name: str, request: Request) -> Repository:
        """The repository, if whoever asks may see it; the real Hub, too, denies that a private one exists."""
        repository = self.repository(name, kind)
        if repository.private and request.token is None:
            raise HubError(401, "Repository not found", "RepoNotFound")
        return repository

    # --- faults ---

    def fault(self, kind: FaultKind, method: str, path: str, **settings: Any) -> Fault:
        """Requests of `method` (`"GET|HEAD"`) whose path matches the pattern go wrong; see `Fault`.

        status: answered with an error. lose: done, but not answered. die: cut in the middle of the body, and the server
        stops. truncate: half of the answer, then the connection ends. short: half, as if it were all. corrupt: one bit
        wrong. call: all is well, but `action` is called first.
        """
        self.faults.append(Fault(kind, method, path, **settings))
        return self.faults[-1]

    def fail(self, method: str, path: str, status: int, **settings: Any) -> Fault:
        return self.fault("status", method, path, status=status, **settings)

    def next_fault(self, method: str, path: str) -> Fault | None:
        with self.lock:
            return next((fault for fault in self.faults if fault.strikes(method, path)), None)

    def count(self, pattern: str) -> int:
        """Requests so far that match `"METHOD path"`."""
        return sum(bool(re.search(pattern, request)) for request in self.requests)

    # --- what the API does; each takes the request and the groups of its route ---

    def create(self, request: Request) -> dict[str, Any]:
        wanted = request.json
        kind = wanted.get("type") or "model"
        owner = wanted.get("organization") or USER
        if owner not in (USER, ORGANIZATION):
            raise HubError(403, f'You don\'t have the rights to create a {kind} under the namespace "{owner}"')
        key = f"{PREFIXES[kind]}{owner}/{wanted['name']}"
        answer = {"url": f"{self.endpoint}/{key}", "name": f"{owner}/{wanted['name']}", "id": key}
        if key in self.repositories:
            raise HubError(409, f"You already created this {kind} repo", **answer)
        private = wanted.get("visibility") == "private" or bool(wanted.get("private"))
        self.repositories[key] = Repository(private=private, settings=wanted)
        return answer

    def validate_yaml(self, request: Request) -> dict[str, Any]:
        try:
            read_card(request.json["content"])
        except yaml.YAMLError as error:
            raise HubError(400, "Invalid metadata", errors=[{"message": str(error)}], warnings=[]) from error
        return {"errors": [], "warnings": []}

    def request_hardware(self, request: Request, kind: str, name: str) -> dict[str, Any]:
        flavour = self.visible(kind, name, request).settings["hardware"] = request.json["flavor"]
        return {"stage": "BUILDING", "hardware": {"current": None, "requested": flavour}}

    def preupload(self, request: Request, kind: str, name: str, revision: str) -> dict[str, Any]:
        blobs = self.visible(kind, name, request).at(revision).blobs
        answers = []
        for file in request.json["files"]:
            path, old = file["path"], blobs.get(file["path"])
            mode = "lfs" if is_lfs(path, file["size"]) else "regular"
            answer = {"path": path, "uploadMode": mode, "shouldIgnore": False}
            answers.append(answer | ({"oid": old.sha256 if old.lfs else old.oid} if old else {}))
        return {"files": answers}

    def lfs_batch(self, request: Request, prefix: str, name: str) -> dict[str, Any]:
        self.visible(next(kind for kind, start in PREFIXES.items() if start == prefix), name, request)
        objects = []
        for wanted in request.json["objects"]:
            entry = {"oid": wanted["oid"], "size": wanted["size"]}
            if wanted["oid"] not in self.objects:
                href = f"http://localhost:{self.port}/lfs/{wanted['oid']}"
                verify = {"href": f"{self.endpoint}/lfs-verify"}
                entry["actions"] = {"upload": {"href": href}, "verify": verify}
            objects.append(entry)
        return {"transfer": "basic", "objects": objects}

    def lfs_put(self, request: Request, oid: str) -> dict[str, Any]:
        assert hashlib.sha256(request.body).hexdigest() == oid
        self.objects[oid] = request.body
        return {}

    def lfs_verify(self, request: Request) -> dict[str, Any]:
        assert len(self.objects[request.json["oid"]]) == request.json["size"]
        return {}

    def commit(self, request: Request, kind: str, name: str, revision: str) -> dict[str, Any]:
        repository = self.visible(kind, name, request)
        assert revision == "main"
        operations = [json.loads(line) for line in request.body.splitlines()]
        header = next(operation["value"] for operation in operations if operation["key"] == "header")
        if header.get("parentCommit") not in (None, repository.head.oid):
            raise HubError(412, "A commit has happened since. Please refresh and try again.")
        blobs = dict(repository.head.blobs)
        for operation in operations:
            self.apply(operation["key"], operation["value"], blobs)
        commit = repository.add(header["summary"], blobs)
        url = f"{self.endpoint}/{PREFIXES[kind]}{name}/commit/{commit.oid}"
        return {"success": True, "commitOid": commit.oid, "commitUrl": url}

    def apply(self, key: str, value: Mapping[str, Any], blobs: dict[str, Blob]) -> None:
        """One line of a commit."""
        if key == "file":
            blobs[value["path"]] = Blob(base64.b64decode(value["content"]))
        elif key == "lfsFile":
            blobs[value["path"]] = Blob(self.objects[value["oid"]], lfs=True)
        elif key == "deletedFile":
            del blobs[value["path"]]

    def info(self, request: Request, kind: str, name: str, revision: str | None) -> dict[str, Any]:
        repository = self.visible(kind, name, request)
        commit = repository.at(revision)
        siblings = []
        for path, blob in commit.blobs.items():
            details = blob.describe(path) if "blobs" in request.query else {}
            sizes = {"size": details["size"], "blobId": details["oid"], "lfs": details.get("lfs")} if details else {}
            siblings.append({"rfilename": path, **sizes})
        card = read_card(commit.blobs["README.md"].content.decode()) if "README.md" in commit.blobs else {}
        answer = {"id": name, "author": name.split("/")[0], "sha": commit.oid, "private": repository.private}
        answer |= {"gated": False, "disabled": False, "downloads": 0, "likes": 0, "siblings": siblings}
        answer |= {"cardData": card, "tags": list(card.get("tags") or []), "sdk": repository.settings.get("sdk")}
        for key in ("library_name", "pipeline_tag"):
            answer |= {key: card[key]} if key in card else {}
        return answer

    def tree(self, request: Request, kind: str, name: str, revision: str, folder: str | None) -> Any:
        """Folders too; all levels or one. In pages, as the real Hub does."""
        blobs = self.visible(kind, name, request).at(revision).blobs
        entries = list_folder(blobs, folder or "")
        if folder and not entries:
            raise HubError(404, f"{folder} does not exist on {revision!r}", "EntryNotFound")
        if request.query.get("recursive", ["false"])[0].lower() not in ("true", "1"):
            depth = len(PurePosixPath(folder or "").parts) + 1
            entries = [entry for entry in entries if len(PurePosixPath(entry["path"]).parts) == depth]
        start = int(request.query.get("cursor", ["0"])[0])
        if start + PAGE >= len(entries):
            return entries[start:]
        path = f"/api/{kind}s/{name}/tree/{quote(revision, safe='')}{'/' + quote(folder, safe='') if folder else ''}"
        query = f"recursive={request.query.get('recursive', ['false'])[0]}&cursor={start + PAGE}"
        return entries[start : start + PAGE], {"Link": f'<{self.endpoint}{path}?{query}>; rel="next"'}

    def paths_info(self, request: Request, kind: str, name: str, revision: str) -> list[dict[str, Any]]:
        blobs = self.visible(kind, name, request).at(revision).blobs
        form = request.json if request.body.startswith(b"{") else parse_qs(request.body.decode())
        wanted = [form["paths"]] if isinstance(form["paths"], str) else form["paths"]
        return [entry for entry in list_folder(blobs, "") if entry["path"] in wanted]

    def refs(self, request: Request, kind: str, name: str) -> dict[str, Any]:
        repository = self.visible(kind, name, request)
        main = {"name": "main", "ref": "refs/heads/main", "targetCommit": repository.head.oid}
        tags = [{"name": t, "ref": f"refs/tags/{t}", "targetCommit": oid} for t, oid in repository.tags.items()]
        return {"branches": [main], "converts": [], "tags": tags}

    def add_tag(self, request: Request, kind: str, name: str, revision: str) -> dict[str, Any]:
        repository, tag = self.visible(kind, name, request), request.json["tag"]
        assert tag not in repository.tags
        repository.tags[tag] = repository.at(revision).oid
        return {}

    def delete_tag(self, request: Request, kind: str, name: str, tag: str) -> dict[str, Any]:
        del self.visible(kind, name, request).tags[tag]
        return {}


def read_card(text: str) -> dict[str, Any]:
    """The YAML at the top of a README."""
    found = re.match(r"---\r?\n(.*?)\r?\n---", text, re.DOTALL)
    return (yaml.safe_load(found[1]) or {}) if found else {}


REPO = r"/api/(model|dataset|space)s/([^/]+/[^/]+)"
ROUTES: dict[tuple[str, str], Callable[..., Any]] = {
    ("POST", r"/api/repos/create"): HubServer.create,
    ("POST", r"/api/validate-yaml"): HubServer.validate_yaml,
    ("POST", REPO + r"/hardware"): HubServer.request_hardware,
    ("POST", REPO + r"/preupload/([^/]+)"): HubServer.preupload,
    ("POST", r"/(|datasets/|spaces/)([^/]+/[^/]+)\.git/info/lfs/objects/batch"): HubServer.lfs_batch,
    ("PUT", r"/lfs/([0-9a-f]{64})"): HubServer.lfs_put,
    ("POST", r"/lfs-verify"): HubServer.lfs_verify,
    ("POST", REPO + r"/commit/([^/]+)"): HubServer.commit,
    ("GET", REPO + r"(?:/revision/([^/]+))?"): HubServer.info,
    ("GET", REPO + r"/tree/([^/]+)(?:/(.+))?"): HubServer.tree,
    ("POST", REPO + r"/paths-info/([^/]+)"): HubServer.paths_info,
    ("GET", REPO + r"/refs"): HubServer.refs,
    ("POST", REPO + r"/tag/([^/]+)"): HubServer.add_tag,
    ("DELETE", REPO + r"/tag/([^/]+)"): HubServer.delete_tag,
}
FILE_ROUTE = r"/(?:api/)?(?:(dataset|space)s/)?([^/]+/[^/]+)/(?:resolve|raw)/([^/]+)/(.+)"
STORE_ROUTE = r"/lfs/([0-9a-f]{64})"
OPEN_TO_READERS = ("/paths-info/", "/validate-yaml", "/lfs/")
"""Requests other than GET and HEAD that need no token, or (the store, by signed addresses) none that is sent."""


class HubHandler(BaseHTTPRequestHandler):
    """Finds the route, checks tokens, answers in JSON, lets faults strike."""

    hub: HubServer
    strikes: Fault | None = None

    def answer(self) -> None:
        address = urlsplit(self.path)
        path = unquote(address.path)
        self.hub.requests.append(f"{self.command} {path}")
        self.strikes = self.hub.next_fault(self.command, path)
        length = int(self.headers.get("Content-Length") or 0)
        if self.strikes and self.strikes.kind == "die":
            self.rfile.read(length // 2)
            self.hub.stop()
            self.close_connection = True
            return
        body = self.rfile.read(length)
        try:
            if self.strikes and self.strikes.kind == "status":
                raise HubError(self.strikes.status, f"the test wants a {self.strikes.status}")
            request = Request(body, parse_qs(address.query), self.authorise(path))
            if self.strikes and self.strikes.action:
                self.strikes.action()
            with self.hub.lock:
                self.dispatch(address.path, request)
        except HubError as error:
            headers = {"X-Error-Message": str(error)} | ({"X-Error-Code": error.code} if error.code else {})
            self.send(error.status, json.dumps({"error": str(error), **error.extra}).encode(), headers)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = answer

    def authorise(self, path: str) -> str | None:
        """The token that came along, if it is a good one for this request."""
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None
        if token not in (None, TOKEN, READ_TOKEN):
            raise HubError(401, "Invalid credentials in Authorization header")
        if self.command not in ("GET", "HEAD") and not any(part in path for part in OPEN_TO_READERS):
            if token is None:
                raise HubError(401, "Invalid username or password.")
            if token == READ_TOKEN:
                raise HubError(403, "You don't have write access to this repository")
        return token

    def dispatch(self, path: str, request: Request) -> None:
        if self.command in ("GET", "HEAD"):
            if match := re.fullmatch(FILE_ROUTE, path):
                kind, name, revision, file = (unquote(group) if group else "" for group in match.groups())
                self.send_file(self.hub.visible(kind or "model", name, request), revision, file)
                return
            if match := re.fullmatch(STORE_ROUTE, path):
                self.send(200, self.hub.objects[match[1]], {"ETag": f'"{match[1]}"'})
                return
        for (method, pattern), action in ROUTES.items():
            if method == self.command and (match := re.fullmatch(pattern, path)):
                answer = action(self.hub, request, *(group and unquote(group) for group in match.groups()))
                content, headers = answer if isinstance(answer, tuple) else (answer, {})
                self.send(200, json.dumps(content).encode(), {"Content-Type": "application/json", **headers})
                return
        raise HubError(404, f"no route {self.command} {path}")

    def send_file(self, repository: Repository, revision: str, path: str) -> None:
        """A file of a repository; one in LFS by a redirect to the store, which has another host name."""
        commit = repository.at(revision)
        if path not in commit.blobs:
            raise HubError(404, "Entry not found", "EntryNotFound")
        blob = commit.blobs[path]
        headers = {"X-Repo-Commit": commit.oid, "Accept-Ranges": "bytes", "ETag": f'"{blob.oid}"'}
        if not blob.lfs:
            self.send(200, blob.content, headers)
            return
        self.hub.objects[blob.sha256] = blob.content
        headers |= {"X-Linked-Etag": f'"{blob.sha256}"', "X-Linked-Size": str(len(blob.content))}
        self.send(302, b"", {**headers, "Location": f"http://localhost:{self.hub.port}/lfs/{blob.sha256}"})

    def send(self, status: int, content: bytes, headers: Mapping[str, str] | None = None) -> None:
        if self.strikes and self.strikes.kind == "lose":
            return
        headers = dict(headers or {})
        if status == 200 and (part := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")):
            first, last = int(part[1]), min(int(part[2] or len(content)), len(content) - 1)
            headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
            status, content = 206, content[first : last + 1]
        fault = self.strikes.kind if self.strikes and status in (200, 206) else None
        if fault == "corrupt":
            content = content[:-1] + bytes([content[-1] ^ 1])
        elif fault == "short":
            content = content[: len(content) // 2]
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[: len(content) // 2] if fault == "truncate" else content)

    def log_message(self, format: str, *args: Any) -> None:
        """Silent."""
