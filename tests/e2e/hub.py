"""A small hub on loopback with the URL scheme of the Hugging Face hub: /api/models/REPO/revision/REV, and
/REPO/resolve/REV/FILE, which answers small files itself (ETag: git's SHA-1) and sends for large ones to another origin (a
second server, which must never see a token) with X-Linked-Etag (SHA-256) and X-Linked-Size. What goes wrong is chosen by
the attributes of Hub."""
import contextlib
import hashlib
import http.server
import json
import threading
import time
import urllib.parse

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    def __init__(self, repos, token=None):
        self.repos = repos              # {"org/name": {"file": bytes}}
        self.token = token              # wanted, None = everything is public
        self.log = []                   # (server, method, path, range, authorization)
        self.cut_at = None              # the next content answer breaks off after so many bytes
        self.no_ranges = False          # answers 200 to a Range
        self.wrong_bytes = False        # sends other bytes of the same length
        self.claim = {}                 # file -> size to announce
        self.etag = {}                  # file -> ETag to announce
        self.slow = 0                   # seconds to wait after each 64 KiB
        self.extra_siblings = []
        self.moved = {}                 # old repository -> new one (307 with a relative address, as after renaming)

    def gets(self, server="cdn"):
        return [entry for entry in self.log if entry[0] == server and entry[1] == "GET"]


def handler(hub, which, other):
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args):
            pass

        def send(self, status, headers=(), body=b""):
            self.send_response(status)
            for k, v in headers:
                self.send_header(k, v)
            if not any(k.lower() == "content-length" for k, v in headers):
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def content(self, data, name):
            if hub.wrong_bytes:
                data = bytes(b ^ 1 for b in data)
            want, status, headers = self.headers.get("Range"), 200, [("Accept-Ranges", "bytes")]
            at = 0
            if want and not hub.no_ranges:
                at = int(want.removeprefix("bytes=").rstrip("-"))
                if at >= len(data):
                    return self.send(416, [("Content-Range", f"bytes */{len(data)}")])
                status = 206
                headers.append(("Content-Range", f"bytes {at}-{len(data) - 1}/{len(data)}"))
            body = data[at:]
            self.send_response(status)
            for k, v in headers + [("Content-Length", str(len(body)))]:
                self.send_header(k, v)
            self.end_headers()
            cut, hub.cut_at = hub.cut_at, None
            for i in range(0, len(body), 65536):
                piece = body[i:i + 65536]
                if cut is not None and i + len(piece) > cut:
                    self.wfile.write(piece[:cut - i])
                    self.close_connection = True
                    return None
                self.wfile.write(piece)
                time.sleep(hub.slow)
            return None

        def do_HEAD(self):
            self.do_GET()

        def do_GET(self):
            path = urllib.parse.unquote(self.path)
            auth = self.headers.get("Authorization")
            hub.log.append((which, self.command, path, self.headers.get("Range"), auth))
            if which == "cdn":
                repo, name = path[1:].split("?")[0].split("//", 1)
                return self.content(hub.repos[repo][name], name)
            for old, new in hub.moved.items():
                if f"/{old}/" in path:
                    return self.send(307, [("Location", self.path.replace(f"/{old}/", f"/{new}/"))])
            if hub.token and auth != f"Bearer {hub.token}":
                return self.send(401, [("X-Error-Message", "Invalid username or password.")])
            if path.startswith("/api/models/"):
                repo, revision = path.removeprefix("/api/models/").split("/revision/")
                if repo not in hub.repos or revision not in ("main", COMMIT):
                    return self.send(404, [("X-Error-Message", "Repository not found")])
                names = [{"rfilename": n} for n in [*hub.repos[repo], *hub.extra_siblings]]
                return self.send(200, [("Content-Type", "application/json")],
                                 json.dumps({"id": repo, "sha": COMMIT, "tags": ["x"], "siblings": names}).encode())
            repo, rest = path[1:].split("/resolve/")
            revision, name = rest.split("/", 1)
            data = hub.repos.get(repo, {}).get(name)
            if data is None or revision not in ("main", COMMIT):
                return self.send(404, [("X-Error-Message", "Entry not found")])
            if len(data) < 1000:
                sha1 = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
                if self.command == "HEAD":
                    return self.send(200, [("ETag", f'W/"{sha1}"'), ("X-Repo-Commit", COMMIT), ("Content-Length", str(len(data)))])
                return self.content(data, name)
            etag = hub.etag.get(name, hashlib.sha256(data).hexdigest())
            return self.send(302, [("Location", f"{other()}/{urllib.parse.quote(repo)}//{urllib.parse.quote(name)}?signed=1"), ("X-Linked-Etag", f'"{etag}"'),
                                   ("X-Linked-Size", str(hub.claim.get(name, len(data)))), ("X-Repo-Commit", COMMIT), ("ETag", '"of-the-redirect"')])

    return Handler


@contextlib.contextmanager
def serve(hub):
    """Runs the hub; hub.url is its endpoint."""
    servers = {}
    for which in ("cdn", "hub"):
        servers[which] = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler(hub, which, lambda: f"http://127.0.0.1:{servers['cdn'].server_port}"))
        threading.Thread(target=servers[which].serve_forever, args=(0.02,), daemon=True).start()
    hub.url = f"http://127.0.0.1:{servers['hub'].server_port}"
    try:
        yield hub
    finally:
        for s in servers.values():
            s.shutdown()
            s.server_close()
