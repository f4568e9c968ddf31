"""One version in every place, and what a release says of itself."""

from __future__ import annotations

import datetime as dt
import re
import shutil
from pathlib import Path

import pytest

import dub5
from tools import release
from tools.release import LOCAL_IMAGE, PLACES, Wrong

TODAY = dt.date(2026, 1, 2)


def test_every_place_names_the_same_version() -> None:
    assert release.disagreeing(release.version()) == []
    assert dub5.__version__ == release.version()
    assert len(release.disagreeing("99.0.0")) == len(PLACES)


def test_no_document_names_one_elsewhere() -> None:
    documents = [
        *release.ROOT.glob("*.md"),
        *release.ROOT.glob("docs/**/*.md"),
        *release.ROOT.glob("deploy/**/*.md"),
    ]
    naming = {
        str(path.relative_to(release.ROOT)) for path in documents if re.search(LOCAL_IMAGE, path.read_text())
    }
    assert naming == {file for file, pattern in PLACES if pattern == LOCAL_IMAGE}


@pytest.fixture
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for file in {"CHANGELOG.md", *(file for file, _ in PLACES)}:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(release.ROOT / file, tmp_path / file)
    monkeypatch.setattr(release, "ROOT", tmp_path)
    return tmp_path


def test_a_version_is_set_everywhere_and_dated(copied: Path) -> None:
    release.set_version("77.1.0", TODAY)
    release.check("v77.1.0")
    assert "## [Unreleased]\n\n## [77.1.0] - 2026-01-02\n" in (copied / "CHANGELOG.md").read_text()
    assert release.notes("77.1.0").startswith("### Added")


def test_a_tag_of_another_version_is_refused(copied: Path) -> None:
    release.set_version("77.1.0", TODAY)
    with pytest.raises(Wrong, match=r"the tag is v77\.1\.1, the version 77\.1\.0"):
        release.check("v77.1.1")


def test_a_place_that_was_left_behind_is_refused(copied: Path) -> None:
    release.set_version("77.1.0", TODAY)
    chart = copied / release.CHART / "Chart.yaml"
    chart.write_text(chart.read_text().replace('appVersion: "77.1.0"', 'appVersion: "77.0.0"'))
    with pytest.raises(Wrong, match=r"Chart\.yaml says 77\.0\.0, not 77\.1\.0"):
        release.check("v77.1.0")


def test_a_version_that_the_changelog_does_not_know_is_refused(copied: Path) -> None:
    release.set_version("77.1.0", TODAY)
    changelog = copied / "CHANGELOG.md"
    changelog.write_text(changelog.read_text().replace("[77.1.0]", "[77.0.0]"))
    with pytest.raises(Wrong, match=r"says nothing of 77\.1\.0"):
        release.check("v77.1.0")


@pytest.mark.parametrize("given", ["1.2", "v1.2.3", "1.2.3rc1", "1.2.3-rc.1"])
def test_what_python_or_helm_does_not_know_is_refused(copied: Path, given: str) -> None:
    before = release.version()
    with pytest.raises(Wrong, match="form"):
        release.set_version(given, TODAY)
    assert release.version() == before
