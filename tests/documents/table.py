"""Where each command of the documents is run. A new one goes into one of these, or tests/unit/documents fails.

Commands are written as in the document, on one line and without the comment behind them.
"""

from __future__ import annotations

from dub5 import __version__

# Run as written by tests/integration/documents, block by block and in order, in a copy of the sources.
HERE = {
    "make help",
    "make format",
    "make generate",
    ".venv/bin/dub5 config check dub5.yaml",
    ".venv/bin/dub5 config check FILE",
    ".venv/bin/dub5 config schema",
    "export OPENAI_API_KEY=sk-... ANTHROPIC_API_KEY=sk-ant-...",
    ".venv/bin/dub5 keys new --tenant acme",
    ".venv/bin/dub5 keys new --tenant acme --model 'openrouter/*' --model tutor --expires 90d",
    ".venv/bin/dub5 keys list",
    ".venv/bin/dub5 smoke chat --url https://chat.example.com",
    ".venv/bin/dub5 cache invalidate --tag prices",
    ".venv/bin/dub5 cache invalidate --all",
    ".venv/bin/dub5 cache warm questions.jsonl --rate 5",
    "make loadtest SCENARIO=steady",
    "RATE=50 DURATION=2m make loadtest SCENARIO=steady URL=http://127.0.0.1:8000 OPERATIONS=http://127.0.0.1:9000",
    ".venv/bin/k6 run -e DUB5_URL=https://chat.example -e DUB5_KEY=$KEY deploy/k6/scenarios/smoke.js",
    ".venv/bin/pytest tests/unit/cache -k key",
    ".venv/bin/dub5 autoscale record --shape step --rate 20 --length 30m --hits 0.4 --out load.record",
    ".venv/bin/dub5 autoscale simulate load.record",
    (
        ".venv/bin/dub5 autoscale simulate load.record --set autoscaling.targetPercentage=50 "
        "--set autoscaling.minReplicas=3"
    ),
    (
        ".venv/bin/dub5 autoscale simulate load.record --values deploy/helm/dub5/examples/production.yaml --json"
    ),
    ".venv/bin/dub5 autoscale explain load.record --at 12m",
    (
        ".venv/bin/dub5 autoscale simulate load.record --refused 0.001 --wait 2s "
        "--html report.html --markdown report.md"
    ),
    (
        ".venv/bin/dub5 autoscale recommend load.record --set config.admission.max_inflight=50 "
        "--refused 0.001 --wait 2s --seeds 2"
    ),
    (
        ".venv/bin/dub5 autoscale record --csv benchmarks/replay/azure_llm_2023_conv_10min.csv "
        "--tokens-per-second 30 --out azure.record"
    ),
    (
        ".venv/bin/dub5 autoscale simulate azure.record --set config.admission.max_inflight=20 "
        "--set autoscaling.minReplicas=1"
    ),
    "tools/cluster/cluster --help",
    ".venv/bin/python -m tools.release --help",
    (
        "curl http://127.0.0.1:8000/v1/chat/completions --header 'Content-Type: application/json' --data "
        """'{"model": "tutor", "messages": [{"role": "user", "content": "Why is the sky blue?"}]}' --include"""
    ),
    (
        "curl -X POST localhost:8000/v1/cache/invalidations -H 'content-type: application/json' -d "
        """'{"tags": ["prices"]}'"""
    ),
}

# The same; they serve until they are stopped, and what comes after them in the document is asked of them.
SERVES = {"make run", "make run CONFIG=examples/dub5.yaml", ".venv/bin/dub5 serve --config dub5.yaml"}

# Files that a document shows before it uses them: the first block of that language.
SHOWN = {
    ("README.md", "yaml"): "dub5.yaml",
    ("docs/adaptive-ttl.md", "yaml"): "policy.yaml",
    ("docs/autoscale.md", "yaml"): "advisor.yaml",
    ("docs/caching.md", "json"): "questions.jsonl",
    ("docs/load-testing.md", "yaml"): "loadtest.yaml",
}

# What is not as written: addresses, and how long.
INSTEAD = {
    "http://127.0.0.1:8000": "$URL",
    "localhost:8000": "$URL",
    "http://127.0.0.1:9000": "$OPERATIONS",
    "https://chat.example.com": "$URL",
    "https://chat.example ": "$URL ",
    "dub5 cache invalidate": "dub5 cache invalidate --url $URL",
    "dub5 cache warm": "dub5 cache warm --url $URL",
    "config check FILE": "config check examples/dub5.yaml",
    "serve --config dub5.yaml": "serve --config examples/dub5.yaml",
    "RATE=50 DURATION=2m": "RATE=5 DURATION=2s",
}

# Run as written by tests/cluster/test_documents.py: each stage is one script, and they follow one another. A line that
# begins with `:` is the test's own, and says what the reader is thought to have done.
CLUSTER = {
    "install": [
        "helm install dub5 deploy/helm/dub5 --namespace chat --create-namespace --wait",
        "helm test dub5 --namespace chat --filter name=dub5-test-health --filter name=dub5-test-chat",
        "kubectl get pods --namespace chat",
        "kubectl get pods --namespace chat --selector app.kubernetes.io/component=backend",
        "kubectl describe deployment dub5 --namespace chat",
        "kubectl get events --namespace chat",
        "kubectl rollout status deployment/dub5 --namespace chat",
        ": kubectl rollout pause deployment/dub5",
        "kubectl rollout resume deployment/dub5 --namespace chat",
    ],
    "alerts": [
        "mkdir -p rules",
        "kubectl get configmap dub5-alerts --namespace chat --output 'jsonpath={.data.dub5\\.yaml}' > rules/chat.yaml",
        (
            "kubectl create configmap dub5-alerts --namespace monitoring --from-file=rules "
            "--dry-run=client --output yaml | kubectl apply --filename -"
        ),
        ": grep -q 'alert: Dub5AvailabilityFastBurn' rules/chat.yaml",
    ],
    "restarts": [
        # Its first process ends, and the kubelet starts it anew.
        (
            ": POD=$(kubectl get pods --selector app.kubernetes.io/component=backend "
            "--output 'jsonpath={.items[0].metadata.name}')"
        ),
        ": kubectl exec $POD -- python -c 'import os; os.kill(1, 15)'",
        ": kubectl wait pod/$POD --for=jsonpath={.status.containerStatuses[0].restartCount}=1 --timeout=60s",
        ": kubectl wait pod/$POD --for=condition=Ready --timeout=60s",
        "kubectl describe pod --namespace chat POD",
        "kubectl logs --previous --namespace chat POD",
        "kubectl logs --namespace chat POD",
        "kubectl delete pod --namespace chat POD",
        ": kubectl rollout status deployment/dub5",
    ],
    "autoscaling": [
        "helm test dub5 --namespace chat",
        "kubectl describe hpa --namespace chat",
        # A test that is given up stays, as one that fails does.
        ": helm test dub5 --filter name=dub5-test-autoscaling --timeout 1s || true",
        ": kubectl wait pod/dub5-test-autoscaling --for=jsonpath={.status.phase}=Succeeded --timeout=60s",
        "kubectl logs --namespace chat dub5-test-autoscaling",
        (
            "kubectl delete pod --namespace chat "
            "--selector app.kubernetes.io/instance=dub5,app.kubernetes.io/component=test"
        ),
        "kubectl delete hpa dub5 --namespace chat",
    ],
    "operator": [
        ": kubectl apply --filename policy.yaml",
        "kubectl get cachepolicies --namespace chat",
        ": kubectl get cachepolicies | grep -E '^NAME +CLASS +MODE +TTL +HIT +STALE +BOUND BY +READY +AGE$'",
        "kubectl describe cachepolicies --namespace chat",
        "kubectl logs deployment/dub5-operator --namespace chat",
        "kubectl rollout restart deployment/dub5-operator --namespace chat",
    ],
    "load test": [
        ": cp loadtest.yaml mine.yaml",
        "helm upgrade dub5 deploy/helm/dub5 --namespace chat --values mine.yaml",
        (
            "JOB=$(kubectl --namespace chat get jobs --selector "
            "app.kubernetes.io/instance=dub5,app.kubernetes.io/component=loadtest --output name)"
        ),
        "kubectl --namespace chat wait $JOB --for=jsonpath={.status.ready}=1",
        "kubectl --namespace chat logs --follow $JOB > run.log",
        "kubectl --namespace monitoring port-forward svc/prometheus 9090 &",
        ": timeout 20 bash -c 'until curl --silent 127.0.0.1:9090/-/ready; do sleep 0.2; done'",
        (
            ".venv/bin/dub5 loadtest report run.log --prometheus http://127.0.0.1:9090 "
            """--selector 'namespace="chat"' --out report"""
        ),
        ": cp run.log later.log",
        (
            ".venv/bin/dub5 loadtest report later.log --prometheus http://127.0.0.1:9090 "
            """--selector 'namespace="chat"' --out later --compare report"""
        ),
    ],
    "load test by schedule": [
        ": helm upgrade dub5 deploy/helm/dub5 --reuse-values --set loadtest.kind=cronjob --set loadtest.suspend=true",
        "kubectl create job --namespace chat --from=cronjob/dub5-loadtest NAME",
    ],
    "advice": [
        (
            ": helm upgrade dub5 deploy/helm/dub5 --reuse-values --values advisor.yaml --set loadtest.enabled=false "
            "--set advisor.last=1m"
        ),
        ": kubectl wait configmap/dub5-advice --for=jsonpath={.data.ended} --timeout=120s",
        "kubectl get configmap dub5-advice --namespace chat --output jsonpath='{.data.verdict}'",
        "kubectl get configmap dub5-advice --namespace chat --output jsonpath='{.data.snippet}' > snippet.yaml",
        "kubectl get configmaps --namespace chat --selector dub5.io/advice=misses",
        ": helm upgrade dub5 deploy/helm/dub5 --reuse-values --set advisor.enabled=false",
    ],
    "keys": [
        ".venv/bin/dub5 keys new --tenant acme --secret dub5-callers --namespace chat | kubectl apply --filename -",
        (
            ": helm upgrade dub5 deploy/helm/dub5 --reuse-values --set loadtest.enabled=false "
            "--set auth.existingSecret=dub5-callers --wait"
        ),
        "kubectl logs --namespace chat --selector app.kubernetes.io/component=backend --tail -1",
    ],
    "upgrade": [
        ": printf 'autoscaling: {targetPercentage: 60}' > mine.yaml",
        "helm upgrade dub5 deploy/helm/dub5 --namespace chat --values mine.yaml --wait",
        "helm rollback dub5 --namespace chat --wait",
        "helm get values dub5 --namespace chat --output yaml > mine.yaml",
        ": grep -q 'maxReplicas: 6' mine.yaml",
        # A second restart within the same second is refused.
        "kubectl rollout restart deployment/dub5 --namespace chat",
        ": kubectl rollout status deployment/dub5",
        "kubectl rollout restart statefulset/dub5-redis --namespace chat",
        ": kubectl rollout status statefulset/dub5-redis",
        "kubectl rollout restart statefulset/dub5-redis deployment/dub5 --namespace chat",
    ],
    "from the autoscaler to a fixed number": [
        ": kubectl wait deployment/dub5 --for=jsonpath={.spec.replicas}=2 --timeout=60s",
        ": helm upgrade dub5 deploy/helm/dub5 --reuse-values --set autoscaling.mode=none --set replicas=2 --wait",
        "helm upgrade … --force-conflicts",
    ],
    "uninstall": [
        "kubectl delete cachepolicies --all --namespace chat",
        "helm uninstall dub5 --namespace chat",
        ": kubectl wait pod --for=delete --selector app.kubernetes.io/instance=dub5 --timeout=60s",
        ": kubectl delete namespace chat --timeout=60s",
    ],
}

INSTEAD_THERE = {
    "deploy/helm/dub5": "deploy/helm/dub5 --values here.yaml",
    "helm upgrade …": "helm upgrade dub5 deploy/helm/dub5 --reuse-values --set replicas=1",
    "--namespace chat POD": "--namespace chat $POD",
    "cronjob/dub5-loadtest NAME": "cronjob/dub5-loadtest by-hand",
}

# Run by others: a test, a target that .ci/run makes, or the part of CI itself.
HELD = {
    "make test": "ci:test",
    "make check": "ci:check",
    "make check test": "ci:test",
    "make test-cluster": "ci:test-cluster",
    "make test-cluster CLUSTER_TESTS=tests/cluster/test_scaling.py": "ci:test-cluster",
    "tools/setup.sh k6-types": "ci:check",
    "tools/setup.sh python": "ci:check",
    # `make` sets up by uv sync.
    "uv sync && uv run dub5 serve": "ci:check",
    # Images are built from the Dockerfile, by buildah, and brought to the nodes by tools/cluster.
    "make image": "ci:cluster",
    "docker build --tag dub5 .": "ci:cluster",
    f"docker build --tag localhost/dub5:{__version__} .": "ci:cluster",
    f"kind load docker-image localhost/dub5:{__version__}": "testkit/cluster/ground.py::load_images",
    # Its image and its environment in a pod with a read-only file system.
    "docker run --rm --read-only --publish 127.0.0.1:8000:8000 --env DUB5_SERVER__HOST=0.0.0.0 "
    "--env DUB5_AUTH__ANONYMOUS=true dub5": "tests/integration/documents/test_commands.py::test_the_container_listens",
    # What Helm makes of these values is run there, without a cluster, and asked by the callers.
    **dict.fromkeys(
        (
            "cp deploy/helm/dub5/examples/rehearsal.yaml rehearsal.yaml",
            (
                "helm install dub5 deploy/helm/dub5 --namespace rehearsal --create-namespace "
                "--values rehearsal.yaml --wait"
            ),
            (
                """while sleep 0.3; do curl --silent --output answer.json --write-out '%{http_code} ' --max-time 5 """
                """--header 'Content-Type: application/json' --data '{"model": "small", "messages": """
                """[{"role": "user", "content": "Is it '$RANDOM'?"}]}' http://127.0.0.1:8000/v1/chat/completions """
                """|| true; done"""
            ),
            (
                "curl --silent --include --header 'X-Request-Id: rehearsal-1' "
                "--header 'Content-Type: application/json' "
                """--data '{"model": "small", "messages": [{"role": "user", "content": "Is it me?"}]}' """
                "http://127.0.0.1:8000/v1/chat/completions"
            ),
            "helm upgrade dub5 deploy/helm/dub5 --namespace rehearsal --values rehearsal.yaml --wait",
        ),
        "tests/integration/documents/test_rehearsal.py::test_an_outage_is_rehearsed",
    ),
    # In its pod it is run as there: with a token that may read policies, and the Redis of the service.
    "kubectl exec deployment/dub5-operator --namespace chat -- dub5 policy explain banter": (
        "tests/operator/test_api_server.py::test_what_the_operator_decided_is_explained_with_its_own_rights"
    ),
    **dict.fromkeys(
        (
            "kubectl exec deployment/dub5 --namespace chat -- dub5 policy plan --record 30m --staleness 1%",
            (
                ".venv/bin/dub5 policy plan --record 30m --redis redis://localhost:6379/0 --staleness 1% "
                "--min-ttl 5s --max-ttl 24h --plot plan.svg"
            ),
        ),
        "tests/operator/test_plan.py::test_a_plan_is_a_table_and_a_plot",
    ),
    ".venv/bin/dub5 autoscale record --prometheus http://prometheus.monitoring:9090 --selector 'namespace=\"chat\"' "
    "--last 24h --out load.record": "tests/integration/advisor/test_running.py::"
    "test_the_command_says_what_is_in_it_and_what_was_odd",
    "helm get values dub5 --namespace chat --all --output yaml | .venv/bin/dub5 autoscale simulate load.record "
    "--values -": "tests/unit/cli/test_autoscale.py::test_values_come_from_standard_input",
    "tools/cluster/cluster up": "tests/cluster/test_tool.py::cluster",
    "KUBECONFIG=~/.kube/config RATE=20 make loadtest SCENARIO=steady NAMESPACE=chat RELEASE=dub5 "
    "PROMETHEUS=monitoring/prometheus:9090": "tests/cluster/test_loadtest.py::"
    "test_one_beside_a_release_reports_and_leaves_nothing",
    "docker build --tag localhost/rsyslog:test examples/logs/rsyslog": "ci:cluster",
    "kubectl apply -k examples/logs/rsyslog": "tests/cluster/test_logs.py::store",
    'kubectl exec -n dub5-logging deployment/dub5-logs -- grep -F "$REQUEST_ID" /logs/dub5.jsonl': "tests/cluster/"
    "test_logs.py::find",
    ".venv/bin/k6 run --out experimental-prometheus-rw": "tests/integration/loadtest/test_remote_write.py::reported",
    # With the same rules, from the same file; there is no chart of others in a package registry.
    "helm install prometheus-adapter prometheus-community/prometheus-adapter --namespace monitoring --values "
    "deploy/helm/dub5/files/prometheus-adapter.yaml --set prometheus.url=http://prometheus-operated.monitoring "
    "--set prometheus.port=9090": "testkit/cluster/ground.py::monitored",
}

# For a release beside the one that the cluster's test has.
REHEARSAL = "is the like of what tests/cluster/test_documents.py does in the namespace chat"

# Named in passing, without what they need to be run.
NAMED = {
    *(
        "helm get notes",
        "helm install",
        "helm template",
        "helm test",
        "helm uninstall",
        "helm upgrade",
        "kubectl exec",
        "kubectl logs",
    ),
    *("dub5 loadtest report", "dub5 cache invalidate", "dub5 autoscale recommend"),
    *("make loadtest", ".venv/bin/uv add …", "kubectl create job --from=cronjob/…"),
}

NOT_RUN = {
    ".ci/run": "is what runs all of these",
    ".venv/bin/python -m benchmarks.cost": "takes ten minutes, and all of two cores",
    "make test RESOLUTION=lowest-direct": "changes .venv; a workflow runs it",
    "make coverage": "the tests of `make test` once more; a workflow runs it",
    "make docs": "takes packages of its own; a workflow runs it",
    "make test-kind": "takes docker and kind; a workflow runs it",
    "tools/commits.sh origin/main..HEAD": "is about commits; a unit test says what it finds",
    ".venv/bin/python -m tools.release set X.Y.Z": "changes the sources; a unit test does it in a copy of them",
    ".venv/bin/python -m benchmarks.spine": "is looked at by people; a unit test says what it counts",
    "tools/slow.sh busy 3": "runs `make test`, three times",
    "make bench": "takes half an hour, and other gateways from their registries",
    ".venv/bin/python -m tools.kubernetes_schemas": (
        "takes Go's proxy, and changes what the tests of the chart compare with"
    ),
    ".venv/bin/python -m tools.dashboards.schema": (
        "takes npm, and changes what the tests of the dashboards compare with"
    ),
    ".venv/bin/python -m tools.dashboards.pictures": "takes minutes, and is looked at by people",
    ".venv/bin/python -m tools.dashboards.pictures --prometheus http://127.0.0.1:9090 --minutes 30 "
    "--namespace chat --out .": "is the same, of a Prometheus that is there",
    "kubectl port-forward --namespace rehearsal service/dub5 8000:80 &": REHEARSAL,
    "kubectl logs --namespace rehearsal --selector app.kubernetes.io/component=backend --tail 5": REHEARSAL,
    "kubectl exec -n dub5-logging deployment/dub5-logs -- grep -F rehearsal-1 /logs/dub5.jsonl": REHEARSAL,
    "kubectl logs --namespace rehearsal --selector app.kubernetes.io/component=backend --tail -1 "
    "| grep 'provider call'": REHEARSAL,
    "helm uninstall dub5 --namespace rehearsal": REHEARSAL,
    "kubectl delete namespace rehearsal": REHEARSAL,
    ".venv/bin/python -m tools.pictures": "takes Chromium, and is looked at by people",
}
