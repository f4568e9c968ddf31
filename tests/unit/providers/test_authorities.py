"""Whose certificates a provider's is held against."""

from __future__ import annotations

from pathlib import Path

import certifi
import pytest
import trustme

from dub5.providers.http import trusted


def test_those_of_the_provider_else_of_the_environment_else_of_certifi(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def known(ca_file: str | None = None) -> set[str]:
        found = trusted("providers.acme", ca_file).get_ca_certs()
        return {str(each["serialNumber"]) for each in found}

    files = [str(tmp_path / name) for name in ("one.pem", "other.pem")]
    for file in files:
        trustme.CA().cert_pem.write_to_path(file)
    one, other, usual = (known(file) for file in (*files, certifi.where()))
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)
    assert known() == usual != one != other
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))
    assert known() == set()  # a folder is looked into when one is needed
    monkeypatch.setenv("SSL_CERT_FILE", files[0])
    assert known() == one
    assert known(files[1]) == other
