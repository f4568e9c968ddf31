"""Puts pip into the virtual environment whose Python runs this, with nothing but the standard library.

Debian and Ubuntu package `ensurepip` separately, so their plain python3 makes environments without pip. Taking
pip from the package registry instead needs no root. tools/setup.sh calls this.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from urllib.parse import urldefrag, urljoin
from urllib.request import urlopen

_WHEEL = re.compile(r'href="([^"]*/pip-([0-9]+(?:\.[0-9]+)*)-py3-none-any\.whl#sha256=([0-9a-f]{64}))"')


def main() -> None:
    index = os.environ.get("PIP_INDEX_URL") or "https://pypi.org/simple"
    address, digest = newest_pip(f"{index.rstrip('/')}/pip/")
    content = fetched(address)
    if hashlib.sha256(content).hexdigest() != digest:
        sys.exit(f"{address} is not what the registry says it is")
    with tempfile.TemporaryDirectory() as directory:
        wheel = Path(directory, address.rpartition("/")[2])
        wheel.write_bytes(content)
        subprocess.run([sys.executable, f"{wheel}/pip", "install", "-q", "--no-index", wheel], check=True)


def newest_pip(page: str) -> tuple[str, str]:
    """Address and SHA-256 of the newest release, from the registry's page about pip."""
    wheels = _WHEEL.findall(fetched(page).decode())
    address, _, digest = max(wheels, key=lambda wheel: [int(part) for part in wheel[1].split(".")])
    return urldefrag(urljoin(page, address)).url, digest


def fetched(address: str) -> bytes:
    with urlopen(address, timeout=60) as response:  # noqa: S310  # the registry's own address
        content: bytes = response.read()
    return content


if __name__ == "__main__":
    main()
