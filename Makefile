.PHONY: help run test check lint audit bench openapi install package clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

run: package  ## serve the embedded models at http://127.0.0.1:8000
	.venv/bin/camserve serve $(ARGS)

test: install  ## run the tests, without the slow ones
	scripts/test $(ARGS)

check: install  ## format, lint, types, import contracts, OpenAPI drift
	scripts/check

lint: install  ## format and repair
	scripts/lint

audit: package  ## known vulnerabilities of the pinned packages
	scripts/audit

bench: install  ## measure the ratios that the docs quote
	scripts/bench $(ARGS)

openapi: package  ## write openapi/openapi.json
	scripts/openapi

install:  ## create .venv with what tests and checks need, too
	@scripts/install .venv dev

package:
	@scripts/install

clean:  ## remove .venv and caches
	rm -rf .venv .venv-sources .venv-tensorflow .venv-clients .venv-mlserver .venv-peers .mypy_cache .ruff_cache .pytest_cache .hypothesis
