"""A small Hub on 127.0.0.1 for the real `huggingface_hub` client; no part of the package.

It keeps repositories in memory, speaks the part of the Hub's protocol that pushing and pulling
need, counts what it is asked, and fails on demand: see `LoopbackHub.fail`.
"""

import base64
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

LARGE_SUFFIXES = (".safetensors", ".bin", ".pt", ".h5", ".arrow", ".parquet")
ATTRIBUTES = b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"


@dataclass
class Blob:
    """One stored file."""

    content: bytes
    is_large: bool

    @property
    def sha256(self):
        return hashlib.sha256(self.content).hexdigest()

    @property
    def git_oid(self):
        return hashlib.sha1(b"blob %d\0" % len(self.content) + self.content).hexdigest()

    @property
    def etag(self):
        return self.sha256 if self.is_large else self.git_oid


@dataclass
class Repository:
    """Commits, each a dict of files; branches and tags point at commits."""

    private: bool
    commits: dict = field(default_factory=dict)  # oid -> {path: Blob}
    branches: dict = field(default_factory=dict)  # name -> oid
    titles: dict = field(default_factory=dict)  # oid -> (title, parent)

    def commit(self, branch, files, title):
        parent = self.branches.get(branch)
        parts = [title, str(parent), str(len(self.commits))]
        parts += [f"{path}:{blob.sha256}" for path, blob in sorted(files.items())]
        oid = hashlib.sha1("\n".join(parts).encode()).hexdigest()
        self.commits[oid] = files
        self.titles[oid] = (title, parent)
        self.branches[branch] = oid
        return oid

    def resolve(self, revision):
        return self.branches.get(revision, revision if revision in self.commits else None)


@dataclass
class Fault:
    """A failure to come: of requests `method path`, after some that pass, so many times."""

    pattern: str
    status: int | None  # None: the connection is cut
    times: int
    after: int
    headers: dict


class Refusal(Exception):
    """An answer that is an error."""

    def __init__(self, status, message, code=None, **body):
        self.status, self.message, self.code, self.body = status, message, code, body


class LoopbackHub:
    """The server. Use as a context manager; `url` is its HF_ENDPOINT.

    Args:
        users: Token to (name, organisations).
        multipart: Size of the parts in which large files are asked for; None for one piece.
    """

    def __init__(self, users, multipart=None):
        self.users, self.multipart = users, multipart
        self.repositories, self.objects, self.parts = {}, {}, {}
        self.log, self.tokens, self.faults = [], [], []
        self.before_commit = None  # called once before the next commit is looked at
        self.before_storage = None  # called for every large file before it is stored
        self.lock = threading.RLock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("H", (Handler,), {"hub": self}))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self):
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *error):
        self._server.shutdown()
        self._server.server_close()

    def fail(self, pattern, status=None, *, times=1, after=0, **headers):
        """Let the next requests that match `METHOD /path` fail; status None cuts the connection."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.faults.append(Fault(pattern, status, times, after, named))

    def fault_of(self, request):
        with self.lock:
            for fault in self.faults:
                if fault.times > 0 and re.search(fault.pattern, request):
                    if fault.after:
                        fault.after -= 1
                        continue
                    fault.times -= 1
                    return fault
        return None

    def add(self, name, files, *, private=False, kind="models"):
        """Put a repository there without a client, as somebody else would."""
        repository = self.repositories.setdefault((kind, name), Repository(private))
        blobs = {path: Blob(c, path.endswith(LARGE_SUFFIXES)) for path, c in files.items()}
        return repository.commit("main", blobs, "by somebody else")

    def repository(self, name, kind="models"):
        return self.repositories[kind, name]

    def files(self, name, revision="main", kind="models"):
        """Return the files of a revision as {path: bytes}, without what every repository has."""
        repository = self.repository(name, kind)
        files = repository.commits[repository.resolve(revision)]
        return {path: b.content for path, b in files.items() if path != ".gitattributes"}

    def count(self, pattern):
        """Return how many requests matched `METHOD /path`."""
        return sum(bool(re.search(pattern, line)) for line in self.log)


class Handler(BaseHTTPRequestHandler):
    """Answers requests; `hub` is set on the class."""

    protocol_version = "HTTP/1.1"
    hub: LoopbackHub

    def log_message(self, *arguments):
        pass

    def handle(self):
        try:
            super().handle()
        except (ConnectionError, BrokenPipeError):
            self.close_connection = True

    def do_GET(self):
        self.serve()

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET

    # ------------------------------------------------------------------------------ Plumbing

    def serve(self):
        split = urlsplit(self.path)
        request = f"{self.command} {split.path}"
        self.query = {name: values[0] for name, values in parse_qs(split.query).items()}
        with self.hub.lock:
            self.hub.log.append(request)
            self.hub.tokens.append(self.headers.get("Authorization", ""))
        fault = self.hub.fault_of(request)
        if fault is not None and fault.status is None and self.command != "GET":
            self.rfile.read(int(self.headers.get("Content-Length", 0)) // 2)
            return self.cut()
        body = self.read_body()
        if fault is not None and fault.status is not None:
            return self.reply(fault.status, {"error": f"planned {fault.status}"}, fault.headers)
        self.cut_reply = fault is not None
        try:
            self.answer([unquote(part) for part in split.path.split("/")[1:]], body)
        except Refusal as refusal:
            headers = {"X-Error-Message": refusal.message}
            if refusal.code:
                headers["X-Error-Code"] = refusal.code
            self.reply(refusal.status, {"error": refusal.message, **refusal.body}, headers)

    def cut(self):
        self.close_connection = True
        self.wfile.flush()
        self.connection.shutdown(2)

    def read_body(self):
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            pieces = []
            while size := int(self.rfile.readline().strip(), 16):
                pieces.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(pieces)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def reply(self, status, value=None, headers=None):
        content = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        headers = {"Content-Type": "application/json", **(headers or {})}
        headers.setdefault("Content-Length", str(len(content)))
        for name, text in headers.items():
            self.send_header(name, text)
        self.end_headers()
        if self.command == "HEAD":
            return
        if getattr(self, "cut_reply", False):
            self.wfile.write(content[: max(1, len(content) * 9 // 10)])
            return self.cut()
        self.wfile.write(content)

    # ------------------------------------------------------------------------------- Rights

    def user(self):
        header = self.headers.get("Authorization")
        if not header:
            return None
        known = self.hub.users.get(header.removeprefix("Bearer "))
        if known is None:
            raise Refusal(401, "Invalid credentials in Authorization header")
        return known

    def may_write(self, name):
        user = self.user()
        if user is None:
            raise Refusal(401, "Invalid username or password.")
        if name.split("/")[0] not in (user[0], *user[1]):
            raise Refusal(403, f"Forbidden: you don't have the rights to write to {name}")

    def repository(self, kind, name, *, write=False):
        repository = self.hub.repositories.get((kind, name))
        user = self.user()
        member = user is not None and name.split("/")[0] in (user[0], *user[1])
        if repository is None or (repository.private and not member):
            status = 401 if user is None else 404
            raise Refusal(status, "Repository not found", "RepoNotFound")
        if write:
            self.may_write(name)
        return repository

    def revision(self, repository, revision):
        oid = repository.resolve(revision)
        if oid is None:
            raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return oid

    # ------------------------------------------------------------------------------ Routes

    def answer(self, parts, body):
        if parts[0] == "api":
            return self.answer_api(parts[1:], body)
        if parts[0] == "lfs":
            return self.answer_storage(parts[1:], body)
        kind = "models"
        if parts[0] == "datasets":
            kind, parts = "datasets", parts[1:]
        if parts[2:] == ["info", "lfs", "objects", "batch"]:
            name = f"{parts[0]}/{parts[1].removesuffix('.git')}"
            return self.batch(self.repository(kind, name, write=True), json.loads(body))
        if len(parts) > 4 and parts[2] == "resolve":
            repository = self.repository(kind, "/".join(parts[:2]))
            return self.resolve(repository, parts[3], "/".join(parts[4:]))
        raise Refusal(404, "no such page")

    def answer_api(self, parts, body):
        if parts == ["whoami-v2"]:
            user = self.user()
            if user is None:
                raise Refusal(401, "Invalid user token.")
            orgs = [{"name": name, "type": "org"} for name in user[1]]
            return self.reply(200, {"type": "user", "name": user[0], "orgs": orgs, "auth": {}})
        if parts == ["validate-yaml"]:
            return self.reply(200, {"errors": [], "warnings": []})
        if parts == ["repos", "create"]:
            return self.create(json.loads(body))
        if parts[0] in ("models", "datasets") and len(parts) >= 3:
            kind, name, rest = parts[0], "/".join(parts[1:3]), parts[3:]
            return self.answer_repository(kind, name, rest, body)
        raise Refusal(404, f"no such page: {parts}")

    def answer_repository(self, kind, name, rest, body):
        action = rest[0] if rest else "info"
        write = action in ("preupload", "commit", "branch")
        repository = self.repository(kind, name, write=write)
        if action in ("info", "revision"):
            return self.info(repository, name, rest[1] if len(rest) > 1 else "main")
        if action == "tree":
            return self.tree(repository, rest[1], "/".join(rest[2:]))
        if action == "preupload":
            return self.preupload(repository, rest[1], json.loads(body))
        if action == "commit":
            return self.commit(repository, name, rest[1], body)
        if action == "branch":
            return self.branch(repository, rest[1], json.loads(body or b"{}"))
        if action == "refs":
            branches = [
                {"name": n, "ref": f"refs/heads/{n}", "targetCommit": oid}
                for n, oid in repository.branches.items()
            ]
            return self.reply(200, {"branches": branches, "converts": [], "tags": []})
        raise Refusal(404, f"no such page: {rest}")

    # ---------------------------------------------------------------------------- Answers

    def create(self, asked):
        user = self.user()
        if user is None:
            raise Refusal(401, "Invalid username or password.")
        name = f"{asked.get('organization') or user[0]}/{asked['name']}"
        self.may_write(name)
        kind = f"{asked.get('type') or 'model'}s"
        url = f"{self.hub.url}/{'datasets/' if kind == 'datasets' else ''}{name}"
        with self.hub.lock:
            if (kind, name) in self.hub.repositories:
                raise Refusal(409, "You already created this model repo", url=url)
            private = asked.get("private") or asked.get("visibility") == "private"
            repository = Repository(bool(private))
            repository.commit("main", {".gitattributes": Blob(ATTRIBUTES, False)}, "initial commit")
            self.hub.repositories[kind, name] = repository
        self.reply(200, {"url": url, "name": name, "id": name})

    def info(self, repository, name, revision):
        oid = self.revision(repository, revision)
        siblings = []
        for path, blob in repository.commits[oid].items():
            sibling = {"rfilename": path}
            if "blobs" in self.query:
                sibling |= {"size": len(blob.content), "blobId": blob.git_oid}
                if blob.is_large:
                    size = len(blob.content)
                    sibling["lfs"] = {"sha256": blob.sha256, "size": size, "pointerSize": 130}
            siblings.append(sibling)
        values = {"id": name, "modelId": name, "sha": oid, "private": repository.private}
        self.reply(200, {**values, "tags": [], "downloads": 0, "siblings": siblings})

    def tree(self, repository, revision, folder):
        oid = self.revision(repository, revision)
        entries = []
        for path, blob in repository.commits[oid].items():
            if folder and not path.startswith(folder + "/"):
                continue
            entry = {"type": "file", "path": path, "size": len(blob.content), "oid": blob.git_oid}
            if blob.is_large:
                entry["lfs"] = {"oid": blob.sha256, "size": len(blob.content), "pointerSize": 130}
            entries.append(entry)
        start = int(self.query.get("cursor", 0))
        page, rest = entries[start : start + 50], entries[start + 50 :]
        headers = {}
        if rest:
            path = urlsplit(self.path).path
            following = f"{self.hub.url}{path}?recursive=true&cursor={start + 50}"
            headers["Link"] = f'<{following}>; rel="next"'
        self.reply(200, page, headers)

    def preupload(self, repository, revision, asked):
        oid = self.revision(repository, revision)
        there, files = repository.commits[oid], []
        for file in asked["files"]:
            path = file["path"]
            is_large = path.endswith(LARGE_SUFFIXES) or file["size"] > 10 * 2**20
            answer = {"path": path, "uploadMode": "lfs" if is_large else "regular"}
            if path in there:
                answer["oid"] = there[path].etag
            files.append({**answer, "shouldIgnore": False})
        self.reply(200, {"files": files})

    def batch(self, repository, asked):
        objects = []
        for wanted in asked["objects"]:
            oid, size = wanted["oid"], wanted["size"]
            answer = {"oid": oid, "size": size}
            if oid not in self.hub.objects:
                upload = {"href": f"{self.hub.url}/lfs/{oid}"}
                if self.hub.multipart and size > self.hub.multipart:
                    number = -(-size // self.hub.multipart)
                    header = {
                        f"{k + 1:05d}": f"{self.hub.url}/lfs/part/{oid}/{k}" for k in range(number)
                    }
                    upload = {
                        "href": f"{self.hub.url}/lfs/complete/{oid}",
                        "header": {"chunk_size": str(self.hub.multipart), **header},
                    }
                verify = {"href": f"{self.hub.url}/lfs/verify"}
                answer["actions"] = {"upload": upload, "verify": verify}
            objects.append(answer)
        self.reply(200, {"transfer": "basic", "objects": objects})

    def answer_storage(self, parts, body):
        if parts[0] == "verify":
            asked = json.loads(body)
            found = self.hub.objects.get(asked["oid"])
            if found is None or len(found) != asked["size"]:
                raise Refusal(422, "the object is not there")
            return self.reply(200, {})
        if parts[0] == "part":
            self.hub.parts[parts[1], int(parts[2])] = body
            etag = f'"{hashlib.md5(body).hexdigest()}"'
            return self.reply(200, b"", {"ETag": etag})
        if parts[0] == "complete":
            oid, number = parts[1], len(json.loads(body)["parts"])
            body = b"".join(self.hub.parts.pop((oid, k)) for k in range(number))
        else:
            oid = parts[0]
        if self.hub.before_storage is not None:
            self.hub.before_storage()
        if hashlib.sha256(body).hexdigest() != oid:
            raise Refusal(400, "the content is not what was announced")
        self.hub.objects[oid] = body
        self.reply(200, {})

    def commit(self, repository, name, branch, body):
        lines = [json.loads(line) for line in body.decode().splitlines() if line]
        hook, self.hub.before_commit = self.hub.before_commit, None
        if hook is not None:
            hook()
        with self.hub.lock:
            if branch not in repository.branches:
                raise Refusal(404, f"Invalid rev id: {branch}", "RevisionNotFound")
            header = next(line["value"] for line in lines if line["key"] == "header")
            parent = header.get("parentCommit")
            if parent and parent != repository.branches[branch]:
                raise Refusal(412, "A commit has happened since. Please refresh and try again.")
            files = dict(repository.commits[repository.branches[branch]])
            for line in lines:
                self.apply(files, line["key"], line["value"])
            oid = repository.commit(branch, files, header["summary"])
        self.reply(200, {"commitOid": oid, "commitUrl": f"{self.hub.url}/{name}/commit/{oid}"})

    def apply(self, files, key, value):
        if key == "file":
            files[value["path"]] = Blob(base64.b64decode(value["content"]), False)
        elif key == "lfsFile":
            if value["oid"] not in self.hub.objects:
                raise Refusal(422, "the object was not uploaded")
            files[value["path"]] = Blob(self.hub.objects[value["oid"]], True)
        elif key == "deletedFile":
            if value["path"] not in files:
                raise Refusal(404, "A file with this name doesn't exist", "EntryNotFound")
            del files[value["path"]]
        elif key == "deletedFolder":
            for path in [p for p in files if p.startswith(value["path"].rstrip("/") + "/")]:
                del files[path]

    def branch(self, repository, name, asked):
        with self.hub.lock:
            if name in repository.branches:
                raise Refusal(409, f"Reference already exists: {name}")
            start = self.revision(repository, asked.get("startingPoint") or "main")
            repository.branches[name] = start
        self.reply(200, {})

    def resolve(self, repository, revision, path):
        oid = self.revision(repository, revision)
        headers = {"X-Repo-Commit": oid, "Accept-Ranges": "bytes"}
        blob = repository.commits[oid].get(path)
        if blob is None:
            headers |= {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"}
            return self.reply(404, {"error": "Entry not found"}, headers)
        headers |= {"ETag": f'"{blob.etag}"', "Content-Type": "application/octet-stream"}
        if blob.is_large:
            headers["X-Linked-Etag"] = f'"{blob.sha256}"'
            headers["X-Linked-Size"] = str(len(blob.content))
        if self.command == "HEAD":
            return self.reply(200, b"", {**headers, "Content-Length": str(len(blob.content))})
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not asked:
            return self.reply(200, blob.content, headers)
        start, size = int(asked[1]), len(blob.content)
        end = min(int(asked[2] or size - 1), size - 1)
        headers["Content-Range"] = f"bytes {start}-{end}/{size}"
        self.reply(206, blob.content[start : end + 1], headers)
