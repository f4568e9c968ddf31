"""What Grafana takes for a dashboard, as JSON Schema, for the tests: `python -m tools.dashboards.schema`.

Grafana publishes it as TypeScript, in @grafana/schema on npm (Apache License 2.0); ts-json-schema-generator (MIT)
makes a JSON Schema of it, with no room for unknown keys. This needs npm, but only whoever moves to a newer Grafana: the
result is kept in tests/tools/dashboards. Queries are not in it: to Grafana they are the data source's own business.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from pathlib import Path

OUT = Path(__file__).parents[2] / "tests/tools/dashboards/schema.json"
GRAFANA = "@grafana/schema@11.6.0"
GENERATOR = "ts-json-schema-generator@2.4.0"

_OPTIONS = "--type Root --expose none --jsDoc none --no-type-check --minify"
_PLUGINS = "@grafana/schema/dist/esm/raw/composable"
_ROOT = f"""\
import type {{ Dashboard, Panel, RowPanel }} from '@grafana/schema';
import type * as Lines from '{_PLUGINS}/timeseries/panelcfg/x/TimeSeriesPanelCfg_types.gen';
import type * as Numbers from '{_PLUGINS}/stat/panelcfg/x/StatPanelCfg_types.gen';
import type * as States from '{_PLUGINS}/statetimeline/panelcfg/x/StateTimelinePanelCfg_types.gen';

type Of<Kind, Options, Field> = Omit<Panel<Options, Field>, 'type' | 'options'> & {{ type: Kind; options: Options }};
type AnyPanel =
  | RowPanel
  | Of<'timeseries', Lines.Options, Lines.FieldConfig>
  | Of<'stat', Numbers.Options, {{}}>
  | Of<'state-timeline', States.Options, States.FieldConfig>;
export type Root = Omit<Dashboard, 'panels'> & {{ panels: AnyPanel[] }};
"""


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "root.ts").write_text(_ROOT, encoding="utf-8")
        subprocess.run(["npm", "install", "--silent", GRAFANA, GENERATOR], cwd=folder, check=True)
        command = ["node_modules/.bin/ts-json-schema-generator", "--path", "root.ts", *_OPTIONS.split()]
        made = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout
    OUT.parent.mkdir(parents=True, exist_ok=True)
    schema = {"$comment": f"From {GRAFANA}.", **json.loads(made)}
    OUT.write_text(json.dumps(schema, separators=(",", ":"), sort_keys=True) + "\n", encoding="utf-8")
    print(f"{OUT.name}: {OUT.stat().st_size // 1024} KiB")


if __name__ == "__main__":
    main()
