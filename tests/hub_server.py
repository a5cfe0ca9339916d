"""A local Hub for the tests: enough of the HTTP API for the unpatched client to create, fill and load a repository.

The client reads `HF_ENDPOINT` when it is imported, so it runs in a subprocess:

    with HubServer() as hub:
        subprocess.run([sys.executable, "-c", script], env={**os.environ, **hub.environment(cache)})

Files are uploaded inline, not through LFS, and there is one revision, `main`, with the id of its last commit.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import unquote, urlsplit

TOKEN = "hf_test"
USER = "tester"


@dataclass
class Repository:
    """Files of the last commit."""

    files: dict[str, bytes] = field(default_factory=dict)

    @property
    def commit(self) -> str:
        names = "".join(f"{name}:{git_id(content)}" for name, content in sorted(self.files.items()))
        return hashlib.sha1(names.encode()).hexdigest()

    def has_revision(self, revision: str) -> bool:
        return revision in ("main", self.commit)


def git_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class HubError(Exception):
    """Becomes an HTTP error; the client chooses its exception by `code`."""

    def __init__(self, status: int, message: str, code: str = "") -> None:
        super().__init__(message)
        self.status, self.code = status, code


class HubServer(ThreadingHTTPServer):
    """Serves on a free port of this machine while the `with` block runs.

    Attributes:
        repositories: by id `"owner/name"`.
        requests: `"METHOD path"` of every request so far.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), HubHandler)
        self.repositories: dict[str, Repository] = {}
        self.requests: list[str] = []

    def __enter__(self) -> Self:
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.shutdown()
        self.server_close()

    def environment(self, cache: Path) -> dict[str, str]:
        """Variables that send a client here, with a cache of its own."""
        return {
            "HF_ENDPOINT": f"http://127.0.0.1:{self.server_port}",
            "HF_TOKEN": TOKEN,
            "HF_HOME": str(cache),
            "HF_HUB_DISABLE_XET": "1",  # with Xet the client would upload elsewhere, whatever this server answers
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_OFFLINE": "0",
        }

    def repository(self, name: str) -> Repository:
        if name not in self.repositories:
            raise HubError(404, f"no repository {name}", "RepoNotFound")
        return self.repositories[name]

    # --- what the API does; each takes the groups of its route and the request's body ---

    def create(self, body: bytes) -> dict[str, Any]:
        request = json.loads(body)
        name = f"{request.get('organization') or USER}/{request['name']}"
        self.repositories.setdefault(name, Repository())
        return {"url": f"http://127.0.0.1:{self.server_port}/{name}", "name": name, "id": name}

    def preupload(self, name: str, body: bytes) -> dict[str, Any]:
        files = json.loads(body)["files"]
        return {
            "files": [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in files],
        }

    def commit(self, name: str, body: bytes) -> dict[str, Any]:
        repository = self.repository(name)
        for line in body.splitlines():
            operation = json.loads(line)
            if operation["key"] == "file":
                value = operation["value"]
                repository.files[value["path"]] = base64.b64decode(value["content"])
        return {
            "success": True,
            "commitOid": repository.commit,
            "commitUrl": f"http://127.0.0.1:{self.server_port}/{name}/commit/{repository.commit}",
        }

    def info(self, name: str, revision: str | None, body: bytes) -> dict[str, Any]:
        repository = self.repository(name)
        self.check_revision(repository, revision)
        siblings = [{"rfilename": path} for path in sorted(repository.files)]
        return {"id": name, "sha": repository.commit, "private": False, "tags": [], "siblings": siblings}

    def tree(self, name: str, revision: str, body: bytes) -> list[dict[str, Any]]:
        """All files; the client asks for the recursive listing."""
        repository = self.repository(name)
        self.check_revision(repository, revision)
        return [
            {"type": "file", "path": path, "size": len(content), "oid": git_id(content)}
            for path, content in sorted(repository.files.items())
        ]

    def check_revision(self, repository: Repository, revision: str | None) -> None:
        if revision is not None and not repository.has_revision(revision):
            raise HubError(404, f"no revision {revision}", "RevisionNotFound")


ROUTES: dict[tuple[str, str], Callable[..., Any]] = {
    ("POST", r"/api/repos/create"): HubServer.create,
    ("POST", r"/api/models/([^/]+/[^/]+)/preupload/main"): HubServer.preupload,
    ("POST", r"/api/models/([^/]+/[^/]+)/commit/main"): HubServer.commit,
    ("GET", r"/api/models/([^/]+/[^/]+)(?:/revision/([^/]+))?"): HubServer.info,
    ("GET", r"/api/models/([^/]+/[^/]+)/tree/([^/]+)"): HubServer.tree,
}
FILE_ROUTE = r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)"


class HubHandler(BaseHTTPRequestHandler):
    """Finds the route, checks the token of writers, answers in JSON."""

    server: HubServer

    def answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.requests.append(f"{self.command} {path}")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            if self.command == "POST" and self.headers.get("Authorization") != f"Bearer {TOKEN}":
                raise HubError(401, "Invalid credentials")
            for (method, pattern), action in ROUTES.items():
                if method == self.command and (match := re.fullmatch(pattern, path)):
                    self.send(200, json.dumps(action(self.server, *match.groups(), body)).encode())
                    return
            if self.command in ("GET", "HEAD") and (match := re.fullmatch(FILE_ROUTE, path)):
                self.send_file(*match.groups())
                return
            raise HubError(404, f"no route {self.command} {path}")
        except HubError as error:
            headers = {"X-Error-Message": str(error)} | ({"X-Error-Code": error.code} if error.code else {})
            self.send(error.status, json.dumps({"error": str(error)}).encode(), headers)

    do_GET = do_HEAD = do_POST = answer

    def send_file(self, name: str, revision: str, path: str) -> None:
        repository = self.server.repository(name)
        self.server.check_revision(repository, revision)
        if path not in repository.files:
            raise HubError(404, f"no file {path}", "EntryNotFound")
        content = repository.files[path]
        self.send(200, content, {"ETag": f'"{git_id(content)}"', "X-Repo-Commit": repository.commit})

    def send(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Silent."""
