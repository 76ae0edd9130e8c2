"""Services beside the engine, for the tests: a package index with a password, and a registry."""

from __future__ import annotations

import base64
import io
import shutil
import socket
import subprocess
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from docker_engine import Docker, until

__all__ = ["container_store", "index_with_password", "private_wheel", "registry_process"]

_NAME = "fnship_private-9.9.9+here-py3-none-any.whl"


def private_wheel() -> bytes:
    """A package that only the private index has."""
    info = "fnship_private-9.9.9+here.dist-info"
    files = {
        "fnship_private.py": "def handle(logger, request):\n    return {'private': True}\n",
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: fnship-private\nVersion: 9.9.9+here\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{name},,\n" for name in [*files, f"{info}/RECORD"])
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, text in {**files, f"{info}/RECORD": record}.items():
            archive.writestr(name, text)
    return buffer.getvalue()


@contextmanager
def index_with_password(address: str, password: str) -> Iterator[tuple[str, list[str]]]:
    """A package index that answers to this password alone.

    Yields:
        Its URL, and the paths that were asked for with the password.
    """
    asked: list[str] = []
    expected = base64.b64encode(f"user:{password}".encode()).decode()

    class Index(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.headers.get("Authorization") != f"Basic {expected}":
                self._answer(401, b"")
                return
            asked.append(self.path)
            if self.path == "/simple/fnship-private/":
                link = _NAME.replace("+", "%2B")
                self._answer(200, f'<a href="/files/{link}">{_NAME}</a>'.encode())
            elif self.path.startswith("/files/"):
                self._answer(200, private_wheel())
            else:
                self._answer(404, b"")

        def _answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            if status == 401:
                self.send_header("WWW-Authenticate", 'Basic realm="index"')
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer((address, 0), Index) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"http://{address}:{server.server_port}/simple/", asked
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def registry_process(folder: Path) -> Iterator[str]:
    """A registry of our own on the loopback address; gives ``127.0.0.1:port``."""
    program = shutil.which("docker-registry")
    assert program is not None
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = folder / "registry.yml"
    config.write_text(
        "version: 0.1\nlog: {level: error}\n"
        f"storage: {{filesystem: {{rootdirectory: {folder / 'blobs'}}}}}\n"
        f"http: {{addr: '127.0.0.1:{port}'}}\n"
    )
    with subprocess.Popen(
        [program, "serve", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            until("the registry to listen", lambda: _listens(port))
            yield f"127.0.0.1:{port}"
        finally:
            process.terminate()


@contextmanager
def container_store(folder: Path, docker: Docker, image: str) -> Iterator[dict[str, str]]:
    """A place where podman and buildah keep images, with `image` from the engine in it.

    Yields:
        The environment that makes them use it, and run as they can on a machine without systemd.
    """
    (folder / "containers.conf").write_text(
        "[containers]\n"
        'default_ulimits = ["nofile=1024:4096", "nproc=4096:4096"]\n'
        "[engine]\n"
        'runtime = "runc"\n'
        'cgroup_manager = "cgroupfs"\n'
        'events_logger = "file"\n'
        f'tmp_dir = "{folder / "tmp"}"\n'  # which a reset removes, under whoever else uses it
    )
    (folder / "storage.conf").write_text(
        "[storage]\n"
        'driver = "overlay"\n'
        f'graphroot = "{folder / "graph"}"\n'
        f'runroot = "{folder / "run"}"\n'
    )
    environ = {
        "CONTAINERS_CONF": str(folder / "containers.conf"),
        "CONTAINERS_STORAGE_CONF": str(folder / "storage.conf"),
        "BUILDAH_ISOLATION": "chroot",
    }
    archive = folder / "base.tar"
    docker("save", "--output", archive, image)
    podman = {**docker.environ(), **environ}
    subprocess.run(
        ["podman", "load", "--input", str(archive)], env=podman, check=True, capture_output=True
    )
    archive.unlink()
    try:
        yield environ
    finally:
        until("podman to let go of its store", lambda: _reset(podman))


def _reset(environ: dict[str, str]) -> bool:
    """Empty the store; a container that is just ending may still hold a part of it."""
    command = ["podman", "system", "reset", "--force"]
    done = subprocess.run(command, env=environ, capture_output=True, text=True)
    if done.returncode:
        print(done.stderr)
    return done.returncode == 0


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0
