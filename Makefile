# Every target sets up what it needs; what is there already is not made again. `make help` lists them.

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
CONFIG ?= $(wildcard dub5.yaml)
TESTS ?= tests/unit tests/integration tests/operator tests/page tests/tools tests/benchmarks
TEST_OPTIONS := -q -n auto --dist worksteal
CLUSTER_TESTS ?= tests/cluster
CLUSTER_OPTIONS := -q -o timeout_func_only=true --timeout 600 --durations 10

# Tests start hundreds of processes, and without bytecode each compiles the service anew for a second.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help run test test-cluster test-keda test-kind cluster coverage check format generate docs bench loadtest image clean

help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1|/p' $(MAKEFILE_LIST) | while IFS='|' read -r name what; do printf '  %-14s %s\n' "$$name" "$$what"; done

run: $(READY) ## Serve on http://127.0.0.1:8000: dub5.yaml or CONFIG=FILE, else a simulated provider
	@exec $(BIN)/dub5 serve $(if $(CONFIG),--config $(CONFIG))

test: $(READY) ## Run every test that needs no cluster, against a real Redis; RESOLUTION=lowest-direct or highest: with other dependencies
	@$(if $(RESOLUTION),tools/setup.sh resolution $(RESOLUTION))
	@tools/setup.sh tests
	@$(if $(CI),tools/setup.sh agents)
	@$(BIN)/python -m pytest $(TEST_OPTIONS) $(TESTS)

# On its own, since under it Python takes two thirds more time.
coverage: $(READY) ## The same tests, and how much of our own code they run: at least 95 % of lines and branches
	@tools/setup.sh tests
	@rm -f .coverage .coverage.*
	@$(BIN)/coverage run -m pytest $(TEST_OPTIONS) $(TESTS)
	@$(BIN)/coverage combine -q
	@$(BIN)/coverage report

cluster: ## Build what test-cluster needs: Kubernetes and its company from source, and the images; about 25 min, once
	@tools/cluster/cluster build kubernetes etcd containerd coredns helm k6 prometheus prometheus-adapter
	@tools/cluster/cluster image pause dub5 redis rsyslog k6 prometheus prometheus-adapter

test-cluster: $(READY) ## The same on a cluster: the one KUBECONFIG names, else one from source (Linux, root, Go)
	@$(if $(KUBECONFIG),,$(MAKE) --no-print-directory cluster)
	@$(BIN)/python -m pytest $(CLUSTER_OPTIONS) --ignore tests/cluster/keda $(CLUSTER_TESTS)

test-keda: $(READY) ## The same with KEDA as the autoscaler; a further quarter of an hour to build, once
	@$(MAKE) --no-print-directory cluster
	@tools/cluster/cluster build keda
	@$(BIN)/python -m pytest $(CLUSTER_OPTIONS) tests/cluster/keda

test-kind: $(READY) ## The life of a release on a cluster of kind; needs docker, kind, kubectl and Go
	@tools/kind.sh tests/cluster/test_life_of_a_release.py

check: $(READY) ## Format, lint, types, import contracts, generated files in step
	@tools/setup.sh k6-types
	@tools/setup.sh actionlint
	@tools/check.sh $(BIN)

format: $(READY) ## Rewrite the sources in the one format
	@$(BIN)/ruff check --quiet --fix-only .
	@$(BIN)/ruff format .

generate: $(READY) ## Rewrite the generated files
	@$(BIN)/python -m tools.generate

docs: $(READY) ## Build the site of the documents into .site, without a network; a dead link, or a page that nothing leads to, fails
	@tools/setup.sh docs
	@$(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going --jobs auto --conf-dir tools/docs . .site
	@echo "$(CURDIR)/.site/index.html"

bench: $(READY) ## Figures beside LiteLLM, Portkey and floors; ROWS="hits live", AGAINST=COMMIT, PYTHON=PATH, ROUNDS=9, QUICK=1, PROFILE=1, OUT=PATH
	@tools/setup.sh redis
	@tools/setup.sh wrk
	@$(BIN)/python -m benchmarks.gateways $(ROWS) $(if $(ROUNDS),--rounds $(ROUNDS)) $(if $(QUICK),--quick) $(if $(PROFILE),--profile) $(if $(OUT),--out $(OUT)) $(if $(AGAINST),--against $(AGAINST)) $(if $(PYTHON),--python $(PYTHON)) $(if $(FILL),--fill $(FILL))

# In KUBECONFIG's cluster where it is set and no URL is: beside RELEASE in NAMESPACE, with PROMETHEUS=NAMESPACE/SERVICE:PORT
# and, where pods have other labels there, SELECTOR='namespace="chat"'.
LOAD_IN_CLUSTER := $(if $(KUBECONFIG),$(if $(URL),,yes))
LOAD_CLUSTER := --release $(or $(NAMESPACE),default)/$(or $(RELEASE),dub5) $(if $(PROMETHEUS),--prometheus $(PROMETHEUS))
LOAD_SERVER := $(if $(URL),--url $(URL)) $(if $(OPERATIONS),--operations $(OPERATIONS))

loadtest: $(READY) ## Load with k6 and report: SCENARIO=steady RATE=50 URL=http://… OPERATIONS=http://…; else KUBECONFIG's, else a server of its own
	@$(if $(LOAD_IN_CLUSTER),echo "In the cluster of $(KUBECONFIG) beside a release: $(LOAD_CLUSTER)",tools/setup.sh k6)
	@$(if $(LOAD_IN_CLUSTER),,tools/setup.sh promtool)
	@$(BIN)/python -m tools.load $(or $(SCENARIO),smoke) $(if $(LOAD_IN_CLUSTER),$(LOAD_CLUSTER) $(if $(SELECTOR),--selector '$(SELECTOR)'),$(LOAD_SERVER)) $(if $(OUT),--out $(OUT)) $(if $(COMPARE),--compare $(COMPARE))

image: ## Build the container image localhost/dub5 with podman, docker or buildah; BASE=IMAGE for another base
	@$(firstword $(shell command -v podman docker buildah) docker) build $(if $(BASE),--build-arg BASE=$(BASE)) --tag localhost/dub5 .

clean: ## Remove what the other targets made
	@rm -rf $(VENV) .coverage .coverage.* .hypothesis .mypy_cache .pytest_cache .ruff_cache .bench .import_linter_cache .site

$(READY): pyproject.toml uv.lock tools/setup.sh tools/uv.txt
	@tools/setup.sh python
	@touch $@
