"""A contract for import-linter that its own cannot express: these modules import what is listed, and nothing else.

`forbidden` is a list of what must not be imported, and lets whatever nobody has thought of pass.
"""

from __future__ import annotations

import sys
from typing import Any

from grimp import ImportGraph
from importlinter import Contract, ContractCheck, fields, output


class AllowedContract(Contract):
    """`modules` and what is in them import each other, the standard library and `allowed`, each with what is in it.

    `within`: only imports of what is in these packages are looked at; without it, all are. Imports below
    `if TYPE_CHECKING:` count: what is read with its types is known.
    """

    type_name = "allowed"

    modules = fields.ListField(subfield=fields.StringField())
    allowed = fields.ListField(subfield=fields.StringField())
    within = fields.ListField(subfield=fields.StringField(), required=False)

    def check(self, graph: ImportGraph, verbose: bool) -> ContractCheck:  # noqa: ARG002  # import-linter's
        """Every import of `modules`, one by one."""
        sources: list[str] = self.modules  # type: ignore[assignment]
        allowed = [*sources, *self.allowed]  # type: ignore[misc]
        within: list[str] | None = self.within  # type: ignore[assignment]
        wrong = [
            (importer, imported)
            for importer in sorted(graph.modules)
            if _is_in(importer, sources)
            for imported in sorted(graph.find_modules_directly_imported_by(importer))
            if not _is_in(imported, [*allowed, *sys.stdlib_module_names])
            and (within is None or _is_in(imported, within))
        ]
        missing = [module for module in sources if module not in graph.modules]
        return ContractCheck(
            kept=not wrong and not missing, metadata={"wrong": wrong, "missing": missing, "graph": graph}
        )

    def render_broken_contract(self, check: ContractCheck) -> None:
        """A line for each import that is not allowed."""
        for module in check.metadata["missing"]:
            output.print_error(f"- there is no module {module}", bold=False)
        graph: ImportGraph = check.metadata["graph"]
        for importer, imported in check.metadata["wrong"]:
            details: Any = graph.get_import_details(importer=importer, imported=imported)
            lines = ", ".join(str(each["line_number"]) for each in details)
            output.print_error(f"- {importer} -> {imported} (l.{lines})", bold=False)
        output.new_line()


def _is_in(module: str, packages: list[str]) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)
