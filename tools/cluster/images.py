"""The images of the test cluster, made here, since there is no registry to pull them from.

    localhost/pause:1              what holds each pod's namespaces
    localhost/python-base:trixie   Debian with Python, from Debian's own packages: what the product's image is built on
    localhost/dub5:test            the product, by its own Dockerfile
    localhost/redis:test           redis-server, from Debian's package
    localhost/rsyslog:test         rsyslog, by the Dockerfile in examples/logs/rsyslog
    localhost/k6:test, …           programs of tools/go with nothing around them

Each is kept in the cache as an OCI archive, under a digest of what it is made from.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from testkit.places import CACHE, ROOT
from tools.cluster.layout import output, say
from tools.cluster.programs import BY_NAME, program
from tools.cluster.programs import build as build_programs

ARCHIVES = CACHE / "images"
SUITE = "trixie"
BASE_PACKAGES = "python3,python3-venv,ca-certificates"
BASE = f"localhost/python-base:{SUITE}"
AUTHORITIES = Path("/etc/ssl/certs/ca-certificates.crt")
HERE = Path(__file__).parent / "images"
PAUSE = HERE / "pause.c"
KEPT = 3  # archives of one image, the newest


@dataclass(frozen=True)
class Image:
    """`ingredients` is anything whose change makes another image; `make` leaves `name` in buildah's store."""

    name: str
    ingredients: Callable[[], bytes]
    make: Callable[[str], None]

    @property
    def archive(self) -> Path:
        short = self.name.removeprefix("localhost/").replace(":", "-")
        return ARCHIVES / f"{short}-{hashlib.sha256(self.ingredients()).hexdigest()[:12]}.tar"


def archive(name: str) -> Path:
    """The OCI archive of an image, made if it is not there yet."""
    image = IMAGES[name]
    path = image.archive
    if path.exists():
        return path
    say(f"making the image {image.name}", end=" ")
    began = time.monotonic()
    image.make(image.name)
    export(image.name, path)
    say(f"{time.monotonic() - began:.0f} s")
    forget_old(path)
    return path


def export(name: str, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(f".{os.getpid()}")
    try:
        buildah("push", "--quiet", name, f"oci-archive:{unfinished}:{name}")
        unfinished.rename(path)
    finally:
        unfinished.unlink(missing_ok=True)


def forget_old(path: Path) -> None:
    versions = sorted(
        path.parent.glob(f"{path.stem.rpartition('-')[0]}-*.tar"), key=lambda file: file.stat().st_mtime
    )
    for old in versions[:-KEPT]:
        old.unlink(missing_ok=True)


def buildah(command: str, *arguments: str) -> str:
    """A store of our own: what is made here is not among the images of whoever uses this machine."""
    store = ["--root", str(CACHE / "buildah"), "--runroot", "/run/dub5-buildah"]
    return output("buildah", *store, command, *arguments, fails=f"buildah {command} failed")


def build(name: str, context: Path, *options: str) -> None:
    """In a chroot, with the machine's network and certificate authorities: it may sit behind a registry of its site."""
    authorities = ["--volume", f"{AUTHORITIES}:{AUTHORITIES}:ro"] if AUTHORITIES.exists() else []
    how = ["--isolation", "chroot", "--network", "host", "--layers", *authorities]
    buildah("build", *how, *options, "--tag", name, str(context))


def from_containerfile(name: str, text: str, files: dict[str, Path]) -> None:
    """An image from a short Containerfile and the files it copies, by the names that it gives them."""
    with folder() as context:
        (context / "Containerfile").write_text(text)
        for file, source in files.items():
            shutil.copy(source, context / file)
        build(name, context, "--file", str(context / "Containerfile"))


@contextmanager
def folder() -> Iterator[Path]:
    """A temporary one in the cache: /tmp may be small."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE, prefix="work-") as path:
        yield Path(path)


def make_pause(name: str) -> None:
    with folder() as work:
        subprocess.run(["cc", "-static", "-Os", "-o", work / "pause", PAUSE], check=True)
        from_containerfile(name, nothing_but("pause"), {"pause": work / "pause"})


def nothing_but(program: str) -> str:
    return f'FROM scratch\nCOPY {program} /{program}\nUSER 65532:65532\nENTRYPOINT ["/{program}"]\n'


def make_base(name: str) -> None:
    with folder() as work:
        how = ("--variant=minbase", f"--include={BASE_PACKAGES}")
        output("debootstrap", *how, SUITE, str(work / "root"), fails="debootstrap failed")
        container = buildah("from", "scratch")
        buildah("add", "--quiet", container, str(work / "root"), "/")
        buildah("config", "--cmd", "/bin/bash", container)
        buildah("commit", "--quiet", "--rm", container, name)


def with_base() -> None:
    """The base may be in the cache as an archive only, or not at all."""
    path = archive("base")
    if not buildah("images", "--quiet", "--filter", f"reference={BASE}"):
        buildah("pull", "--quiet", f"oci-archive:{path}")


def make_product(name: str) -> None:
    with_base()
    build(name, ROOT, "--build-arg", f"BASE={BASE}")


def product_sources() -> bytes:
    """What the Dockerfile copies: see .dockerignore."""
    named = "Dockerfile pyproject.toml uv.lock README.md LICENSE NOTICE tools/uv.txt"
    files = [ROOT / name for name in named.split()]
    for folder in ("backend", "operator"):
        found = sorted((ROOT / folder).rglob("*"))
        files += [path for path in found if path.is_file() and "__pycache__" not in path.parts]
    return BASE_PACKAGES.encode() + b"".join(
        str(path.relative_to(ROOT)).encode() + path.read_bytes() for path in files
    )


def on_base(name: str, dockerfile: Path) -> Image:
    """By a Dockerfile that takes BASE, and no file besides."""

    def make(image: str) -> None:
        with_base()
        with folder() as context:
            build(image, context, "--build-arg", f"BASE={BASE}", "--file", str(dockerfile))

    base = f"{SUITE} {BASE_PACKAGES}".encode()
    return Image(f"localhost/{name}:test", lambda: base + dockerfile.read_bytes(), make)


def of_program(tool: str, name: str) -> Image:
    text = nothing_but(name)

    def make(image: str) -> None:
        build_programs([tool])
        from_containerfile(image, text, {name: program(name)})

    return Image(f"localhost/{name}:test", f"{BY_NAME[tool].place}{text}".encode, make)


IMAGES = {
    "pause": Image("localhost/pause:1", PAUSE.read_bytes, make_pause),
    "base": Image(BASE, f"{SUITE} {BASE_PACKAGES}".encode, make_base),
    "dub5": Image("localhost/dub5:test", product_sources, make_product),
    "redis": on_base("redis", HERE / "redis.Dockerfile"),
    "rsyslog": on_base("rsyslog", ROOT / "examples/logs/rsyslog/Dockerfile"),
    "k6": of_program("k6", "k6"),
    "prometheus": of_program("prometheus", "prometheus"),
    "prometheus-adapter": of_program("prometheus-adapter", "prometheus-adapter"),
    "keda": of_program("keda", "keda"),
    "keda-adapter": of_program("keda", "keda-adapter"),
}
