# Every target sets up what it needs first; a second run finds it in place.
# Settings: FLOWPLANE_HOME (state), FLOWPLANE_CACHE (downloads), and the ports FLOWPLANE_WEB_PORT,
# FLOWPLANE_WEB_TLS_PORT and FLOWPLANE_STORE_PORT. Tests only: FLOWPLANE_TEST_KUBECONFIG (docs/testing.md).

PYTHON ?= python3
BIN := .venv/bin
SETUP := $(PYTHON) -m embedded.setup
EMBEDDED := $(BIN)/python -m embedded
TESTBED := $(BIN)/python -m testbed
UV_COMPILE := $(BIN)/uv pip compile --quiet --universal --generate-hashes --python-version 3.11 --no-header \
	--no-emit-index-url --no-emit-find-links

.DEFAULT_GOAL := help
.PHONY: help demo demo-down backup restore shell setup setup-development setup-bench check test screenshots bench
.PHONY: test-here test-kubernetes test-kubernetes-long testbed-up testbed-down testbed-status
.PHONY: bench-product bench-queue bench-engine bench-doors bench-installation bench-k8s bench-k8s-fleet \
	chaos chaos-k8s chaos-k8s-simulated chaos-k8s-engines static-stability format lock

help: ## Say what there is to make
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: setup ## From sign-up to fulfilled orders, then serve until Ctrl-C (ONCE=1: end after the summary)
	@exec $(EMBEDDED) demo $(if $(ONCE),--once)

demo-down: setup ## Stop everything, engines included (PURGE=1: remove the state as well)
	@exec $(EMBEDDED) down $(if $(PURGE),--purge)

backup: setup ## Back up the demo's database and secrets (TO=FILE: a new file)
	@$(if $(TO),,$(error Say where to: make backup TO=FILE))exec $(EMBEDDED) backup --to "$(TO)"

restore: setup ## Restore them (FROM=FILE; IDENTITY=FILE: the key, when the home that made the backup is gone)
	@$(if $(FROM),,$(error Say what from: make restore FROM=FILE))exec $(EMBEDDED) restore --from "$(FROM)" \
		$(if $(IDENTITY),--identity "$(IDENTITY)")

shell: setup ## A Django shell in the demo's environment
	@exec $(EMBEDDED) run --role owner -- $(BIN)/python manage.py shell

setup:
	@$(SETUP) embedded

setup-development:
	@$(SETUP) development

setup-bench:
	@$(SETUP) bench

check: setup-development ## Format, lint, types, import contracts, missing and unsafe migrations
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(EMBEDDED) detached -- $(BIN)/mypy
	$(BIN)/lint-imports
	$(EMBEDDED) detached -- $(BIN)/python -W ignore::RuntimeWarning manage.py makemigrations --check --dry-run
	$(EMBEDDED) bench -- $(BIN)/python -m pytest --quiet tests/architecture/test_migrations.py

# Both halves wait more than they work, so they run side by side, and what they print is mixed.
test: setup-development ## The test suite, on real servers and engines (ARGS='-k name': a part of it)
	@$(if $(ARGS),echo "Not run: the tests marked kubernetes (make test-kubernetes ARGS=...)."; exec $(MAKE) test-here,if [ "$$(id -u)" = 0 ]; then \
		exec $(MAKE) --jobs=2 --keep-going test-here test-kubernetes; \
		else echo "Not run: the tests marked kubernetes, which need root (make test-kubernetes)."; exec $(MAKE) test-here; fi)

test-here: setup-development
	$(EMBEDDED) bench -- $(BIN)/python -m pytest -m "not chaos and not kubernetes" $(ARGS)

# With FLOWPLANE_TEST_KUBECONFIG set, on that cluster instead of one of our own.
test-kubernetes: setup-development ## The tests on a real Kubernetes of our own, as root (15 minutes, 10 more the first time)
	$(if $(FLOWPLANE_TEST_KUBECONFIG),,$(TESTBED) around -- )$(EMBEDDED) bench -- \
		$(BIN)/python -m pytest -m "kubernetes and not chaos" $(ARGS)

test-kubernetes-long: setup-development ## What takes too long for those: several brokers, the product in pods (half an hour)
	$(if $(FLOWPLANE_TEST_KUBECONFIG),,$(TESTBED) around --product -- )$(EMBEDDED) bench -- \
		$(BIN)/python -m pytest -m "kubernetes and chaos" --ignore tests/provisioning/backends/faults \
		--ignore tests/provisioning/backends/test_kubernetes_kills.py $(ARGS)

chaos-k8s: chaos-k8s-simulated chaos-k8s-engines ## Faults of regions, deaths at every step, on a Kubernetes of our own (root; 75 minutes)

# They end and freeze what their Kubernetes is made of, so it is always one of their own.
chaos-k8s-simulated chaos-k8s-engines: export FLOWPLANE_TEST_KUBECONFIG =

chaos-k8s-simulated: setup-development ## The faults alone, without real pods (20 minutes)
	$(TESTBED) around --tier simulated -- $(EMBEDDED) bench -- \
		$(BIN)/python -m pytest --timeout 1200 tests/provisioning/backends/faults $(ARGS)

chaos-k8s-engines: setup-development ## The deaths in what only real engines do (54 minutes)
	$(TESTBED) around --tier node -- $(EMBEDDED) bench -- \
		$(BIN)/python -m pytest tests/provisioning/backends/test_kubernetes_kills.py $(ARGS)

testbed-up: setup-development ## That Kubernetes alone (TIER=control, simulated, node or all)
	@exec $(TESTBED) up $(TIER)

testbed-down: setup-development ## End it and remove its state
	@exec $(TESTBED) down

testbed-status: setup-development ## Say what of it runs, where, and in how much memory
	@exec $(TESTBED) status

chaos: setup-development ## What is left out there for time: every kill, long lives, 1,000 random kills (SEED=1; hours)
	$(EMBEDDED) bench -- $(BIN)/python -m pytest -m "chaos and not kubernetes" $(ARGS)
	$(EMBEDDED) bench -- $(BIN)/python -m pytest --every-kill --timeout 7200 tests/provisioning/test_kills.py
	$(BIN)/python -m bench.chaos $(if $(SEED),--seed $(SEED))

static-stability: setup-development ## Everything of ours off for half an hour, under load
	$(EMBEDDED) bench -- $(BIN)/python -m pytest -s --off-seconds 1800 tests/e2e/test_static_stability.py

screenshots: setup-development ## Make the pictures of docs/images anew
	$(BIN)/python -m embedded.screenshots

bench: bench-product bench-queue bench-engine bench-doors ## The figures of product, queue, engine and doors, one after the other (two cores for itself; an hour)

bench-product: setup-development ## From accepted to healthy, an idle turn, memory (about 10 minutes)
	$(BIN)/python -m bench.figures

bench-queue: setup-development ## The queue beside bare Celery and procrastinate (about 10 minutes)
	$(BIN)/python -m bench.queue

bench-engine: setup-development ## An engine of ours beside the same one started by hand (about 10 minutes)
	$(BIN)/python -m bench.engine_tax

bench-doors: setup-development ## The REST door beside a bare one, at a million clusters (ROWS=1000000; half an hour)
	$(BIN)/python -m bench.api $(if $(ROWS),--rows $(ROWS))

bench-installation: setup-development ## How long backup and restore of our own database take (N=10000: clusters)
	$(BIN)/python -m bench.installation $(N)

bench-k8s: setup-bench ## A tenant on Kubernetes beside `helm install` (root; 2 minutes; by ARGS='--figure ...' healthy and burst 5, fair 1, fleet of N=1000 14)
	$(BIN)/python -m bench.k8s $(if $(N),--tenants $(N)) $(ARGS)

bench-k8s-fleet: setup-bench ## 8,000 tenants at rest in two regions, as root (an hour and a half)
	$(BIN)/python -m bench.k8s --figure fleet --regions 2 --tenants 8000 --steps --minutes 10 --budget 300 $(ARGS)

format: setup-development ## Put the code into its form
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lock: setup-development ## Write the lock files anew (UPGRADE=1: with the newest versions)
	for name in runtime embedded development bench; do $(UV_COMPILE) $(if $(UPGRADE),--upgrade) \
		requirements/$$name.in --output-file requirements/$$name.txt || exit 1; done
	npm install --package-lock-only --ignore-scripts --no-audit --no-fund
