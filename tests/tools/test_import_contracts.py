"""The import contracts of pyproject.toml hold, and each of them fails where it is broken.

A contract that names no module that is there, or ignores too much, would be kept whatever is imported.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import grimp
import pytest
from importlinter.api import read_configuration
from importlinter.contracts.layers import LayersContract
from importlinter.domain.contract import Contract

from testkit.places import ROOT
from tools.import_contracts import AllowedContract

Options = dict[str, Any]

TYPES: dict[str, type[Contract]] = {"allowed": AllowedContract, "layers": LayersContract}
CONFIGURATION = read_configuration(str(ROOT / "pyproject.toml"))
SESSION: Options = CONFIGURATION["session_options"]
CONTRACTS: dict[str, Options] = {each["name"]: each for each in CONFIGURATION["contracts_options"]}

WAYS = {
    "Data flows down": [
        ("dub5.cache.store", "dub5.api"),
        ("dub5.cache.store", "dub5.providers"),
        ("dub5.settings.model", "dub5.redis"),
    ],
    "contract.py": [("dub5.contract", "dub5.errors"), ("dub5.contract", "redis")],
    "question_ttl.py": [("dub5.question_ttl", "dub5.errors"), ("dub5.question_ttl", "numpy")],
    "The advisor knows": [
        ("dub5.advisor.simulation", "dub5.api"),
        ("dub5.advisor.sources", "dub5.cache.store"),
        ("dub5.advisor.gate", "dub5.providers"),
    ],
    "What an autoscaler decides": [
        ("dub5.advisor.hpa", "dub5.errors"),
        ("dub5.advisor.hpa_metrics", "numpy"),
    ],
    "Of the backend, the operator": [
        ("dub5_operator.crd", "dub5.errors"),
        ("dub5_operator.crd", "dub5.shares"),
    ],
    "The planner": [
        ("dub5_operator.planner.decision", "httpx"),
        ("dub5_operator.planner.decision", "msgspec"),
        ("dub5_operator.planner.decision", "redis"),
        ("dub5_operator.planner.decision", "dub5_operator.handlers.policy"),
    ],
    "Tests, benchmarks and tools": [
        ("tests.harness", "tools.generate"),
        ("tests.harness", "benchmarks.figures"),
        ("tests.tools.test_release", "benchmarks.figures"),
        ("tests.benchmarks.test_cost", "tools.generate"),
        ("benchmarks.figures", "tests.harness"),
        ("benchmarks.figures", "tools.generate"),
        ("tools.generate", "tests.harness"),
        ("tools.generate", "benchmarks.figures"),
        ("testkit.processes", "tests.harness"),
        ("testkit.processes", "benchmarks.figures"),
        ("testkit.processes", "tools.generate"),
        ("dub5.errors", "testkit.processes"),
        ("dub5_operator.handlers.policy", "testkit.processes"),
    ],
}
"""Imports that must not be, by the beginning of the contract's name: the module, and what it would import."""


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    return grimp.build_graph(*SESSION["root_packages"], include_external_packages=True, cache_dir=None)


def kept(name: str, graph: grimp.ImportGraph) -> bool:
    [options] = [each for full, each in CONTRACTS.items() if full.startswith(name)]
    made = TYPES[options["type"]](name=options["name"], session_options=SESSION, contract_options={**options})
    return made.check(deepcopy(graph), verbose=False).kept


def test_each_contract_is_tried() -> None:
    assert len(WAYS) == len(CONTRACTS)


@pytest.mark.parametrize("name", WAYS)
def test_it_is_kept(name: str, graph: grimp.ImportGraph) -> None:
    assert kept(name, graph)


@pytest.mark.parametrize(
    ("name", "importer", "imported"), [(name, *way) for name, ways in WAYS.items() for way in ways]
)
def test_it_fails_where_it_is_broken(
    name: str, importer: str, imported: str, graph: grimp.ImportGraph
) -> None:
    broken = deepcopy(graph)
    assert {importer, imported} <= broken.modules
    broken.add_import(importer=importer, imported=imported)
    assert not kept(name, broken)
