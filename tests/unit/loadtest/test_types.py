"""`make check` finds a wrong type in k6's scripts. Skipped where there is no npm to set TypeScript up."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
TOOLS = ROOT / "tools/k6-types"
TSC = Path(sys.executable).parents[1] / "k6-types/node_modules/.bin/tsc"
IMPORTS = f"""\
import http from 'k6/http';
import {{ ask }} from '{ROOT}/deploy/k6/lib/client.js';
import {{ prompt }} from '{ROOT}/deploy/k6/lib/prompts.js';
"""
pytestmark = pytest.mark.skipif(not TSC.exists(), reason="needs TypeScript")


@pytest.mark.parametrize("project", ["tsconfig.json", "tsconfig.1.json"])
@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("ask('tutor', prompt('short', 'mark'));", ""),
        ("ask('tutor', 'Why is the sky blue?');", "error TS2345"),
        ("ask('tutor', prompt('short'));", "error TS2554"),
        ("http.post(1);", "error TS2345"),
    ],
)
def test_a_wrong_type_is_found(tmp_path: Path, project: str, line: str, said: str) -> None:
    (tmp_path / "script.js").write_text(f"{IMPORTS}{line}\n")
    config = {
        "extends": str(TOOLS / project),
        "include": [str(tmp_path / "*.js")],
        "compilerOptions": {"noUnusedLocals": False},
    }
    (tmp_path / "tsconfig.json").write_text(json.dumps(config))
    run = subprocess.run([TSC, "--project", tmp_path], capture_output=True, text=True, check=False)
    assert (said in run.stdout, run.returncode == 0) == (True, said == ""), run.stdout
