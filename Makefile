# Everything a developer does, one target each; "make help" lists them.

PYTHON ?= python3
CONFIG ?=
JOBS ?= 4
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
NEED_PYTHON := Python 3.11 or later is needed, as "$(PYTHON)". On Debian or Ubuntu: sudo apt-get install python3 python3-venv
NEED_VENV := The venv module of "$(PYTHON)" is incomplete. On Debian or Ubuntu: sudo apt-get install python3-venv
NEED_HEADERS := The extra "ldap" is not installed, so its tests are skipped: it is compiled. On Debian, run tests/clients/install.sh as root
NEED_NETWORK := The packages could not be installed; pip says why above. Once that is mended, run make again.

.DEFAULT_GOAL := help
.PHONY: help run test test-nginx conformance soak lint bench graphs clean debian-packages

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: $(VENV)/installed ## serve on 127.0.0.1:5000 with the data in ./data, or as CONFIG=file says
	@exec $(BIN)/pierhead serve $(CONFIG)

test: $(VENV)/installed-ldap $(VENV)/installed-go ## set up and run every test; ARGS="-k manifests" runs some, JOBS=1 one at a time
	@$(BIN)/pytest -n $(JOBS) $(ARGS)

test-nginx: $(VENV)/installed-ldap $(VENV)/installed-go ## run the tests of the API and of the clients once more, with every server behind nginx
	@PIERHEAD_TESTS_THROUGH_NGINX=yes $(BIN)/pytest -n $(JOBS) tests/api tests/clients $(ARGS)

conformance: $(VENV)/installed-dev $(VENV)/installed-go ## run the OCI distribution spec's own tests; the reports are in build/conformance
	@PIERHEAD_CONFORMANCE_REPORTS=build/conformance $(BIN)/pytest tests/clients/test_conformance.py $(ARGS)

soak: $(VENV)/installed-dev ## do everything at once for ten minutes: nothing is lost, and nothing grows
	@PIERHEAD_SOAK_SECONDS=600 $(BIN)/pytest -o faulthandler_timeout=900 -o log_cli=true -o log_cli_level=INFO tests/durability/test_soak.py $(ARGS)

lint: $(VENV)/installed-dev ## check style, format and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

bench: $(VENV)/installed-dev ## compare the speed with docker-registry's; ARGS="--quick" only shows that it works
	@$(BIN)/python -m bench $(ARGS)

graphs: $(VENV)/installed-dev ## measure how cost grows with what there is, and draw it in docs/growth
	@$(BIN)/python -m bench.growth $(ARGS)

clean: ## remove what the other targets made, except the data
	@rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -prune -exec rm -rf {} +

# A virtual environment that works is kept; one whose Python is gone, or that has no pip, is made anew.
$(VENV)/python: setup.cfg setup.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { echo '$(NEED_PYTHON)' >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo '$(NEED_VENV)' >&2; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || { echo 'Creating $(VENV)'; $(PYTHON) -m venv --clear $(VENV); }
	@touch $@

$(VENV)/installed: $(VENV)/python
	@echo 'Installing Pierhead'
	@$(BIN)/python -m pip install --quiet --use-pep517 --editable . || { echo '$(NEED_NETWORK)' >&2; exit 1; }
	@touch $@

$(VENV)/installed-dev: $(VENV)/python
	@echo 'Installing Pierhead and the tools of its developers'
	@$(BIN)/python -m pip install --quiet --use-pep517 --editable '.[dev]' || { echo '$(NEED_NETWORK)' >&2; exit 1; }
	@touch $(VENV)/installed $@

debian-packages:
	@if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then PYTHON='$(PYTHON)' sh tests/clients/install.sh; fi

# python-ldap has no wheels. Where it is not there and cannot be compiled, its tests are skipped, and say so.
$(VENV)/installed-ldap: $(VENV)/installed-dev | debian-packages
	@if $(BIN)/python -c 'import ldap' 2>/dev/null || printf '#include <%s>\n' Python.h ldap.h sasl/sasl.h | \
		cc -E -I "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("include"))')" - >/dev/null 2>&1; then \
		echo 'Installing what LDAP needs'; \
		$(BIN)/python -m pip install --quiet --use-pep517 --editable '.[ldap]' || { echo '$(NEED_NETWORK)' >&2; exit 1; }; \
		touch $@; \
	else echo '$(NEED_HEADERS)' >&2; fi

# Where they cannot be built for want of a network, the tests that need them are skipped, and say so.
$(VENV)/installed-go: tests/clients/go.sh | $(VENV)/installed-dev
	@sh tests/clients/go.sh $(BIN) && touch $@ || [ $$? = 3 ]
