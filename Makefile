# Every target installs what it needs into .venv first; a second time that takes no time.
PY := .venv/bin/python
HARNESS := .venv/bin/harness
ENGINE = $(shell $(PY) -c "import vllm" 2>/dev/null && echo server || echo reference)

.PHONY: docs package verify help demo test test-long test-steering test-steering-gpu chaos interop pages reproduce-killed evidence fresh-clone check format clean setup-demo setup-test setup-long

help:  ## Show the targets
	@grep -E '^[a-z-]+:.*##' Makefile | sed 's/:.*## /\t/' | expand -t 16

setup-demo:
	@sh scripts/setup.sh cpu,train

setup-test:
	@sh scripts/setup.sh cpu,train,report,docs,dev

setup-long:
	@sh scripts/setup.sh cpu,train,report,docs,dev,ray

demo: setup-demo  ## Install, start the embedded model's server, run the main job on the shipped adapters
	$(HARNESS) run --engine $(ENGINE) --adapter safe_l22,risky_l22 \
		--suite awareness,objective,ood,control_intensity,control_neutral,validation

test: setup-test check  ## Run the checks and the tests that need no GPU, but for those of a minute and more
	OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not gpu and not slow"

test-long: setup-long  ## The tests of a minute and more that `make test` leaves out, but for the plugin's: an hour and a half
	$(PY) -m pytest -m "slow and not gpu" --ignore tests/steering --durations 0

test-steering: setup-test  ## The steering plugin against real servers, many of them: half an hour on two cores
	$(PY) -m pytest -m "not gpu" tests/steering --steering-figures reports/steering_tests.json

test-steering-gpu:  ## The same against float32 engines, where vLLM's GPU build and pytest-xdist are installed: four minutes
	python3 -m pytest -n 8 tests/steering/test_exactness.py --steering-figures reports/steering_tests_gpu.json

chaos: setup-test  ## Kill, cut off and confuse runs by a seeded campaign, and count what is lost: some ten minutes
	$(PY) -m tests.chaos.campaign --seed 1 --out reports/chaos/campaign.txt

pages: setup-test  ## Rebuild the reference report from its runs, test pages in Chromium, take their pictures
	$(HARNESS) report reports/adapters/runs $(wildcard reports/vector_story reports/sweep reports/training \
		reports/patching reports/backdoor reports/backdoor_awareness adapters/backdoor_*/training.json \
		adapters/decorrelated_*/training.json) --output-dir reports/smollm2-135m
	REQUIRE_BROWSER=1 $(PY) -m pytest tests/pages
	$(PY) -m scripts.screens reports/smollm2-135m/report.html
	$(PY) -m mkdocs build --strict
	$(PY) -m scripts.screens --site build/site --out reports/docs_screens $(addsuffix /index.html,. \
		tutorial/own-questions how-to/other-tools reference/command-line)

reproduce-killed: setup-test  ## Reproduce everything undisturbed and again killed twice, and compare: two hours
	$(PY) -m scripts.reproduce_killed reports/reproduce --seed 1

interop: setup-test  ## Score suites through lm-eval, Inspect, promptfoo, openai and curl, and compare each item: an hour on two cores
	$(PY) -m scripts.interop

verify: setup-test  ## Reload every shipped adapter and vector, and hold its test figures against its record: ten minutes on two cores
	$(HARNESS) adapters verify --json > reports/adapters/verify.json

evidence: setup-test  ## Print every claim with its figure and bound: a few minutes; PARTS="chaos" for some
	$(PY) -m scripts.evidence $(PARTS)

fresh-clone:  ## Time `make demo` and `make test` in a fresh clone: half an hour
	python3 scripts/fresh_clone.py

docs: setup-test  ## Build the documentation site into build/site
	$(PY) -m mkdocs build --strict

package: setup-test  ## Build, install the wheel alone in empty environments, and walk a stranger's path: ten minutes
	$(PY) -m scripts.check_package

check: setup-test  ## Lint, formatting, types
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

format: setup-test  ## Format the code
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

clean:  ## Remove what was installed and built
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache
