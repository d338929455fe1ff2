"""As much of the Hugging Face hub's HTTP interface as a repository of a model needs, in memory, on this machine's own address."""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Repositories(http.server.BaseHTTPRequestHandler):
    """name -> path -> content, of all repositories that were made."""

    files: ClassVar[dict[str, dict[str, bytes]]]
    private: ClassVar[dict[str, bool]]
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Nothing is told."""

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        found = b""
        while size := int(self.rfile.readline(), 16):
            found += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return found

    def _answer(self, value: Any, code: int = 200) -> None:
        self._send(json.dumps(value).encode(), {"Content-Type": "application/json"}, code)

    def _send(self, content: bytes, headers: dict[str, str], code: int = 200) -> None:
        self.send_response(code)
        for name, value in ({"Content-Length": str(len(content))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def do_POST(self) -> None:
        body, path = self._body(), self.path.partition("?")[0]
        found = re.fullmatch(r"/api/models/([^/]+/[^/]+)/(preupload|commit)/main", path)
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            self.files.setdefault(name, {})
            self.private[name] = asked.get("private", asked.get("visibility") == "private")
            self._answer({"url": f"http://{self.headers['Host']}/{name}"})
        elif path == "/api/validate-yaml":
            self._answer({"errors": [], "warnings": []})
        elif found and found[2] == "preupload":
            files = json.loads(body)["files"]
            modes = [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in files]
            self._answer({"files": modes})
        elif found:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    content = base64.b64decode(line["value"]["content"])
                    self.files[found[1]][line["value"]["path"]] = content
            address = f"http://{self.headers['Host']}/{found[1]}/commit/{COMMIT}"
            self._answer({"success": True, "commitOid": COMMIT, "commitUrl": address})
        else:
            self._answer({"error": f"POST {path}"}, 404)

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        model = re.fullmatch(r"/api/models/([^/]+/[^/]+?)(?:/(revision|tree)/[^/]+)?", path)
        file = re.fullmatch(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)", path)
        if model and model[1] in self.files:
            own = self.files[model[1]]
            if model[2] == "tree":
                self._answer([{"type": "file", "path": each, "size": len(own[each]), "oid": "0"} for each in own])
            else:
                siblings = [{"rfilename": each} for each in own]
                self._answer({"id": model[1], "sha": COMMIT, "siblings": siblings, "private": True, "tags": []})
        elif file and file[2] in self.files.get(file[1], {}):
            content = self.files[file[1]][file[2]]
            tag = hashlib.sha256(content).hexdigest()
            self._send(content, {"ETag": f'"{tag}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"})
        else:
            self._send(b"{}", {"X-Error-Code": "RepoNotFound"}, 404)

    def do_HEAD(self) -> None:
        self.do_GET()


@contextmanager
def serving() -> Iterator[tuple[str, type[Repositories]]]:
    """The address of a server for the time of a block, and what it holds."""

    class Own(Repositories):
        files: ClassVar[dict[str, dict[str, bytes]]] = {}
        private: ClassVar[dict[str, bool]] = {}

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Own)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", Own
    finally:
        server.shutdown()
        server.server_close()
