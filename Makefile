# One obvious way. `make` alone lists what there is.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PY := .venv/bin/python
export PYTHONPATH := $(CURDIR)
ARGS ?=

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

setup: .venv/.installed  ## .venv from the lock, Debian's prometheus where it is missing
	@bash local/debian.sh prometheus:prometheus

# Only tests use kubectl. Where it cannot be had they are skipped and say why; with CI set that is a failure.
kubectl: setup
	@bash local/debian.sh kubectl:kubernetes-client || test -z "$$CI"

# Only tests read these: what TensorRT's versions offer, 12 MB of wheels from PyPI, by hash. The rest is as above.
tensorrt-bindings: setup
	@$(PY) -m tests.build_images.tensorrt_bindings || test -z "$$CI"

.venv/.installed: requirements.txt
	@command -v python3.11 >/dev/null || { echo "Sluice needs Python 3.11: sudo apt-get install -y python3.11 python3.11-venv"; exit 1; }
	@python3.11 -c 'import ensurepip' 2>/dev/null || { echo "the venv module is missing: sudo apt-get install -y python3.11-venv"; exit 1; }
	@echo "installing the locked environment into .venv (2 to 5 minutes) …"
	@test -x $(PY) || python3.11 -m venv .venv
	@.venv/bin/pip install --quiet --disable-pip-version-check --no-deps -r requirements.txt
	@# xds-protos ships a cut-down copy of these; MLflow needs the whole ones, so they come last.
	@.venv/bin/pip install --quiet --disable-pip-version-check --no-deps --force-reinstall \
		$$(grep -E '^(opentelemetry-proto|googleapis-common-protos)==' requirements.txt)
	@touch $@

demo: setup  ## promote a real model to 100 %, then turn a bad one back  (ARGS="--exit --fault slow")
	@$(PY) -m local.demo $(ARGS)

up: setup  ## start everything and leave it up  (Ctrl-C ends it)
	@$(PY) -m local.stack $(ARGS)

check: setup  ## ruff, mypy strict, import-linter
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/mypy
	@.venv/bin/lint-imports --no-logo

test: check kubectl tensorrt-bindings  ## everything CI runs: checks, unit tests, end-to-end tests on the real parts
	@$(PY) -m pytest -n 2 --dist loadfile $(ARGS)

test-cluster: kubectl  ## the cluster contract against a real cluster: KUBECONFIG=… make test-cluster
	@test -n "$$KUBECONFIG" || { echo "set KUBECONFIG to the cluster's kubeconfig"; exit 1; }
	@$(PY) -m pytest -m cluster tests/local/cluster $(ARGS)

lock:  ## remake requirements.txt from requirements.in (in a fresh venv)
	@bash local/lock.sh

clean:  ## remove the local state (.sluice); keeps .venv
	@rm -rf .sluice

.PHONY: help setup kubectl tensorrt-bindings demo up check test test-cluster lock clean
