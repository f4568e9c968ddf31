"""The chart, rendered by a real Helm: its library, from the wheel helm-python-sdk. `make test` installs it."""

from __future__ import annotations

import functools
import http.server
import json
import threading
from collections.abc import Hashable
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import helm_python as helm
import jsonschema
import yaml

from testkit.chart import CHART

SCHEMAS = Path(__file__).parent / "schemas"

Json = dict[str, Any]


class _Loader(yaml.CSafeLoader):
    """Refuses a key that is there twice; the program's own loader does too, but this one is in C."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [key.value for key, _ in node.value]
        assert len(keys) == len(set(keys)), f"a key is there twice{node.start_mark}"
        return super().construct_mapping(node, deep=deep)


def parsed(text: str) -> Any:
    return yaml.load(text, Loader=_Loader)


class Rendered(NamedTuple):
    """The objects by kind and name, and what `helm install` would say."""

    objects: dict[tuple[str, str], Json]
    notes: str

    def of(self, kind: str) -> dict[str, Json]:
        """All objects of a kind, by name."""
        return {name: made for (of, name), made in self.objects.items() if of == kind}

    def one(self, kind: str, name: str = "dub5") -> Json:
        return self.objects[kind, name]

    def pods(self) -> dict[str, Json]:
        """Specs of all pods, by the name of what makes them."""
        templates = {**self.of("Deployment"), **self.of("StatefulSet"), **self.of("Job")}
        made = {name: each["spec"]["template"]["spec"] for name, each in templates.items()}
        for name, job in self.of("CronJob").items():
            made[name] = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]
        return made | {name: pod["spec"] for name, pod in self.of("Pod").items()}

    def backend(self) -> Json:
        """The container."""
        container: Json = self.pods()["dub5"]["containers"][0]
        return container


@functools.cache
def _chart() -> helm.Chart:
    return helm.Chart.load(CHART)


def render(values: Json | None = None) -> Rendered:
    """The release `dub5` in the namespace `chat`, as `helm install` would make it; the same object for the same values.

    helm.HelmError where the values are refused.
    """
    return _rendered(json.dumps(values or {}, sort_keys=True))


@functools.cache
def _rendered(values: str) -> Rendered:
    return rendered_anew(json.loads(values))


def rendered_anew(values: Json, release: str = "dub5", namespace: str = "chat") -> Rendered:
    """With secrets of its own."""
    _chart().validate_schema(values)
    files = _chart().render(values, name=release, namespace=namespace)
    notes = files.pop("dub5/templates/NOTES.txt")
    objects: dict[tuple[str, str], Json] = {}
    for path, text in files.items():
        made = parsed(text)
        if made is not None:
            key = made["kind"], made["metadata"]["name"]
            assert key not in objects, f"{path} makes {key} a second time"
            objects[key] = made
    return Rendered(objects, notes)


def refusal(values: Json) -> str:
    """Why Helm refuses `values`; fails where it does not."""
    try:
        render(values)
    except helm.HelmError as error:
        return str(error)
    raise AssertionError(f"not refused: {values}")


def nested(path: str, value: Any) -> Json:
    """`nested("a.b", 1)` is {"a": {"b": 1}}."""
    for key in reversed(path.split(".")):
        value = {key: value}
    made: Json = value
    return made


class ApiSchemas:
    """What one version of the Kubernetes API accepts, and the custom resources."""

    def __init__(self, version: str) -> None:
        built_in = json.loads((SCHEMAS / f"kubernetes-{version}.json").read_text(encoding="utf-8"))
        self._definitions = built_in["definitions"]
        self._kinds = dict(built_in["kinds"])
        for path in SCHEMAS.glob("*.json"):
            if not path.name.startswith("kubernetes-"):
                self._kinds |= json.loads(path.read_text(encoding="utf-8"))["kinds"]

    def complaints(self, made: Json) -> list[str]:
        schema = {**self._kinds[f"{made['apiVersion']} {made['kind']}"], "definitions": self._definitions}
        found = jsonschema.Draft7Validator(schema).iter_errors(made)
        return [f"{made['kind']} {error.json_path}: {error.message[:300]}" for error in found]


class FakeCluster:
    """As much of a Kubernetes API as `lookup` needs: it lists kinds and gives the objects that a test has put there."""

    _PLURALS: ClassVar = {
        "Deployment": "deployments",
        "Secret": "secrets",
        "HorizontalPodAutoscaler": "horizontalpodautoscalers",
    }
    _GROUPS: ClassVar = {
        "v1": ["Secret"],
        "apps/v1": ["Deployment"],
        "autoscaling/v2": ["HorizontalPodAutoscaler"],
    }

    def __init__(self) -> None:
        self._objects: dict[str, Json] = {}
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def put(self, made: Json) -> None:
        plural = self._PLURALS[made["kind"]]
        place = f"{self._prefix(made['apiVersion'])}/namespaces/chat/{plural}/{made['metadata']['name']}"
        self._objects[place] = made

    def render(self, values: Json | None = None) -> dict[str, Json]:
        """The objects of an upgrade, by file; helm.HelmError where it is refused."""
        url = f"http://127.0.0.1:{self._server.server_address[1]}"
        with helm.Config(kube_apiserver=url, namespace="chat", storage_driver="memory") as config:
            files = config.render(_chart(), values or {}, name="dub5", namespace="chat", is_upgrade=True)
        return {path: parsed(text) for path, text in files.items() if not path.endswith("NOTES.txt")}

    @staticmethod
    def _prefix(version: str) -> str:
        return f"/apis/{version}" if "/" in version else f"/api/{version}"

    def _answer(self, path: str) -> Json | None:
        for version, kinds in self._GROUPS.items():
            if path == self._prefix(version):
                names = [{"name": self._PLURALS[kind], "kind": kind, "namespaced": True} for kind in kinds]
                return {"kind": "APIResourceList", "groupVersion": version, "resources": names}
        return self._objects.get(path)

    def _handler(cluster) -> type[http.server.BaseHTTPRequestHandler]:  # noqa: N805  # `self` is the handler's
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                answer = cluster._answer(self.path.partition("?")[0])
                missing = {
                    "kind": "Status",
                    "apiVersion": "v1",
                    "status": "Failure",
                    "reason": "NotFound",
                    "code": 404,
                }
                body = json.dumps(missing if answer is None else answer).encode()
                self.send_response(404 if answer is None else 200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        return Handler
