"""A Hugging Face Hub of this machine: as much of its HTTP interface as loading and pushing call.

Answers, headers and error codes are those that huggingface_hub reads. Large files go by git-LFS
(HF_HUB_DISABLE_XET=1) and are served from another address, as the real Hub's are.
"""

import base64
import contextlib
import hashlib
import http.server
import importlib
import json
import re
import sys
import threading
import urllib.parse

TOKEN = "hf_of_nobody"
USER = "me"


class Repository:
    """Files by commit, commits by branch."""

    def __init__(self, private=False):
        self.private, self.is_gated = private, False
        self.commits = {_sha(b"first"): {}}
        self.branches = {"main": _sha(b"first")}
        self.messages = []

    def commit(self, branch, files, message=""):
        """Adds files; the commit's name."""
        name = _sha(repr((self.branches[branch], sorted(files.items()))).encode())
        self.commits[name] = self.commits[self.branches[branch]] | files
        self.branches[branch] = name
        self.messages.append(message)
        return name

    def find(self, revision):
        """The commit of a branch or of its own name, None for neither."""
        name = self.branches.get(revision, revision)
        return name if name in self.commits else None


class FakeHub:
    """The server: a context manager. What was asked of it is in `requests`, as "METHOD /path"."""

    def __init__(self):
        self.repositories, self.blobs = {}, {}
        self.requests, self.is_broken = [], False

        class Handler(_Handler):
            hub = self

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        self.elsewhere = f"http://localhost:{self._server.server_port}"

    def __enter__(self):
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()

    def add(self, name, files, **options):
        """A repository with one commit of {path: bytes}."""
        repository = self.repositories[name] = Repository(**options)
        repository.commit("main", files)
        return repository


@contextlib.contextmanager
def library(monkeypatch, endpoint, cache, **variables):
    """huggingface_hub as a process with these environment variables imports it."""
    settings = {
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(cache),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    with monkeypatch.context() as patch:
        for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "HF_HUB_CACHE", "HUGGING_FACE_HUB_TOKEN"):
            patch.delenv(name, raising=False)
        for name, value in (settings | variables).items():
            patch.setenv(name, value)
        for name in _imported():
            patch.delitem(sys.modules, name)
        try:
            yield importlib.import_module("huggingface_hub")
        finally:
            for name in _imported():
                del sys.modules[name]


def _imported():
    return [name for name in sys.modules if name.partition(".")[0] == "huggingface_hub"]


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self._dispatch()

    def do_GET(self):
        self._dispatch()

    def do_POST(self):
        self._dispatch()

    def do_PUT(self):
        self._dispatch()

    def _dispatch(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = urllib.parse.unquote(self.path.partition("?")[0])
        self.hub.requests.append(f"{self.command} {path}")
        if self.hub.is_broken:
            return self._answer(503, {"error": "down"})
        for method, pattern, function in _ROUTES:
            found = re.fullmatch(pattern, path)
            if found and self.command in method.split("/"):
                return function(self, body, *found.groups())
        self._answer(404, {"error": f"no such address {path}"})

    def _answer(self, status, content=b"", headers=()):
        if not isinstance(content, bytes):
            content = json.dumps(content).encode()
        self.send_response(status)
        for name, value in dict(headers).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _refuse(self, status, code, text, headers=()):
        marks = {"X-Error-Code": code, "X-Error-Message": text, **dict(headers)}
        self._answer(status, {"error": text}, marks)

    def _is_me(self):
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _may_write(self, name):
        if not self._is_me():
            self._refuse(401, "", "Invalid username or password.")
        elif name.partition("/")[0] != USER:
            self._refuse(403, "", f"You don't have the rights to write to {name}.")
        else:
            return True
        return False

    def _repository(self, name):
        """The repository; None where it was refused."""
        repository = self.hub.repositories.get(name)
        if repository is None or repository.private and not self._is_me():
            status = 404 if self._is_me() else 401
            self._refuse(status, "RepoNotFound", "Repository not found")
        elif repository.is_gated:
            self._refuse(403, "GatedRepo", f"Access to model {name} is restricted.")
        else:
            return repository
        return None

    def _file(self, _, name, revision, file):
        if (repository := self._repository(name)) is None:
            return
        if (commit := repository.find(revision)) is None:
            return self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        headers = {"X-Repo-Commit": commit}
        if (content := repository.commits[commit].get(file)) is None:
            return self._refuse(404, "EntryNotFound", "Entry not found", headers)
        if not file.endswith(".safetensors"):
            return self._answer(200, content, headers | {"ETag": f'"{_sha(content)}"'})
        oid = hashlib.sha256(content).hexdigest()
        self.hub.blobs[oid] = content
        headers |= {"X-Linked-Etag": f'"{oid}"', "X-Linked-Size": str(len(content))}
        self._answer(302, b"", headers | {"Location": f"{self.hub.elsewhere}/blobs/{oid}"})

    def _blob(self, _, oid):
        self._answer(200, self.hub.blobs[oid], {"ETag": f'"{oid}"'})

    def _info(self, _, name, revision=None):
        if (repository := self._repository(name)) is None:
            return
        if (commit := repository.find(revision or "main")) is None:
            return self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        files = [{"rfilename": file} for file in repository.commits[commit]]
        made = {"id": name, "sha": commit, "private": repository.private, "siblings": files}
        self._answer(200, made | {"tags": [], "downloads": 0, "likes": 0})

    def _create(self, body):
        wanted = json.loads(body)
        name = f"{wanted.get('organization') or USER}/{wanted['name']}"
        if not self._may_write(name):
            return
        made = {"url": f"{self.hub.endpoint}/{name}", "name": name}
        if name in self.hub.repositories:
            return self._answer(409, made | {"error": "You already created this model repo"})
        is_private = wanted.get("visibility") == "private" or wanted.get("private") is True
        self.hub.repositories[name] = Repository(is_private)
        self._answer(200, made)

    def _branch(self, _, name, branch):
        if self._may_write(name) and (repository := self._repository(name)):
            repository.branches[branch] = repository.branches["main"]
            self._answer(200, {})

    def _validate(self, body):
        """The real one parses the metadata; this one wants them at the beginning, closed."""
        text = json.loads(body)["content"]
        errors = [] if re.match(r"---\n(.+\n)+---\n", text) else [{"message": "no metadata"}]
        self._answer(400 if errors else 200, {"errors": errors, "warnings": []})

    def _preupload(self, body, name, revision):
        if not self._may_write(name) or (repository := self._repository(name)) is None:
            return
        if repository.find(revision) is None:
            return self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        modes = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular",
                "shouldIgnore": False,
            }
            for file in json.loads(body)["files"]
        ]
        self._answer(200, {"files": modes})

    def _lfs(self, body, name):
        if self._may_write(name):
            objects = json.loads(body)["objects"]
            for wanted in objects:
                address = f"{self.hub.elsewhere}/blobs/{wanted['oid']}"
                wanted["actions"] = {"upload": {"href": address}}
            self._answer(200, {"transfer": "basic", "objects": objects})

    def _upload(self, body, oid):
        assert hashlib.sha256(body).hexdigest() == oid
        self.hub.blobs[oid] = body
        self._answer(200)

    def _commit(self, body, name, revision):
        if not self._may_write(name) or (repository := self._repository(name)) is None:
            return
        header, *operations = map(json.loads, body.splitlines())
        files = {}
        for operation in operations:
            kind, value = operation["key"], operation["value"]
            if kind == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif kind == "lfsFile":
                files[value["path"]] = self.hub.blobs[value["oid"]]
        commit = repository.commit(revision, files, header["value"]["summary"])
        address = f"{self.hub.endpoint}/{name}/commit/{commit}"
        self._answer(200, {"commitUrl": address, "commitOid": commit})


def _sha(content):
    return hashlib.sha1(content).hexdigest()


_NAME = r"([\w.-]+/[\w.-]+)"
_ROUTES = [
    ("HEAD/GET", rf"/{_NAME}/resolve/(.+)/([^/]+)", _Handler._file),
    ("HEAD/GET", r"/blobs/(\w+)", _Handler._blob),
    ("GET", rf"/api/models/{_NAME}", _Handler._info),
    ("GET", rf"/api/models/{_NAME}/revision/(.+)", _Handler._info),
    ("POST", r"/api/repos/create", _Handler._create),
    ("POST", r"/api/validate-yaml", _Handler._validate),
    ("POST", rf"/api/models/{_NAME}/branch/(.+)", _Handler._branch),
    ("POST", rf"/api/models/{_NAME}/preupload/(.+)", _Handler._preupload),
    ("POST", rf"/{_NAME}\.git/info/lfs/objects/batch", _Handler._lfs),
    ("PUT", r"/blobs/(\w+)", _Handler._upload),
    ("POST", rf"/api/models/{_NAME}/commit/(.+)", _Handler._commit),
]
