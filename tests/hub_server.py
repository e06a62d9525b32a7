"""An imitation of the Hub: repositories that are created, committed to and read, by huggingface_hub itself."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlparse


@dataclass
class Repository:
    """A repository: what was asked for when it was created, and its files after each commit."""

    created: dict[str, Any]
    commits: list[dict[str, bytes]] = field(default_factory=lambda: [{}])

    @property
    def files(self) -> dict[str, bytes]:
        """Files of the latest commit."""
        return self.commits[-1]

    @property
    def commit_id(self) -> str:
        """Id of the latest commit."""
        return hashlib.sha1(str(len(self.commits)).encode()).hexdigest()


@dataclass
class Hub:
    """The imitation, and what it holds."""

    url: str
    repositories: dict[str, Repository]


@contextmanager
def hub() -> Iterator[Hub]:
    """Serve an empty Hub."""
    repositories: dict[str, Repository] = {}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *arguments: object) -> None:
            """Keep the output of the test clean."""

        def reply(self, status: int, content: Any = b"", **headers: str) -> None:
            body = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            headers.setdefault("Content-Length", str(len(body)))
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"] or 0))
            path = urlparse(self.path).path
            if path == "/api/repos/create":
                wanted = json.loads(body)
                name = f"{wanted.get('organization') or 'someone'}/{wanted['name']}"
                repositories.setdefault(name, Repository(wanted))
                return self.reply(200, {"url": f"{address}/{name}", "name": name})
            if path == "/api/validate-yaml":
                return self.reply(200, {"errors": [], "warnings": []})
            if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/preupload/main", path):
                files = json.loads(body)["files"]
                modes = [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in files]
                return self.reply(200, {"files": modes})
            if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/main", path):
                repository = repositories[match[1]]
                files = dict(repository.files)
                for line in map(json.loads, body.splitlines()):
                    if line["key"] == "file":
                        files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                repository.commits.append(files)
                commit = {"commitOid": repository.commit_id, "commitUrl": f"{address}/{match[1]}/commit/main"}
                return self.reply(200, commit | {"hookOutput": "", "pullRequestUrl": None})
            return self.reply(404, {"error": "not found"}, X_Error_Code="RepoNotFound")

        def do_GET(self) -> None:
            path = unquote(urlparse(self.path).path)
            if path == "/api/whoami-v2":
                return self.reply(200, {"name": "someone", "type": "user", "auth": {"accessToken": {"role": "write"}}})
            match = re.match(r"(?:/api/models)?/([^/]+/[^/]+)", path)
            repository = repositories.get(match[1]) if match else None
            if match is None or repository is None:
                return self.reply(404, {"error": "not found"}, X_Error_Code="RepoNotFound")
            rest = path[match.end() :]
            if file := re.fullmatch(r"/resolve/[^/]+/(.+)", rest):
                content = repository.files.get(file[1])
                commit = {"X_Repo_Commit": repository.commit_id}
                if content is None:
                    return self.reply(404, X_Error_Code="EntryNotFound", **commit)
                return self.reply(200, content, ETag=f'"{hashlib.sha1(content).hexdigest()}"', **commit)
            if rest.startswith("/tree/"):
                return self.reply(
                    200, [{"type": "file", "path": name, "size": 1, "oid": "0"} for name in repository.files]
                )
            siblings = [{"rfilename": name} for name in repository.files]
            return self.reply(200, {"id": match[1], "sha": repository.commit_id, "siblings": siblings})

        do_HEAD = do_GET

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    address = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield Hub(address, repositories)
    finally:
        server.shutdown()
        server.server_close()
