# The project's front door. Every target sets up what it needs by itself, and only once.
# The tools of the lab live in sbin, which an ordinary user of Debian has not in the PATH.
export PATH := $(PATH):/usr/local/sbin:/usr/sbin:/sbin

.PHONY: help setup test test-fast lint types demo kernel-shell bench accept scenarios churn-lab paper fuzz pages clean
.DEFAULT_GOAL := help

help: ## Show the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 16

setup: ## Make the virtual environment, install the lab's tools (or say what is missing)
	@scripts/setup.sh everything

test: ## Lint, types, import contracts and every test, the lab's included
	@scripts/test.sh

test-fast: ## The tests without namespaces that need little processor time (a minute)
	@scripts/test-fast.sh

lint: ## ruff (rules and format), the import contracts, and what is too large
	@scripts/lint.sh

types: ## mypy, strict
	@scripts/types.sh

demo: ## A whole overlay in namespaces: one anonymous path, a 20 MB download, captures everywhere
	@scripts/demo.sh

kernel-shell: ## A prompt inside a kernel with ESP (User Mode Linux), the demo's hosts up
	@scripts/kernel-shell.sh

bench: ## Costs per packet and per circuit, in userspace and in the kernel, as a table and as build/bench.json
	@scripts/bench.sh

churn-lab: ## Twenty minutes of real churn, 30 nodes, held against the simulator: build/churn/report.md
	@scripts/churn-lab.sh

paper: ## The paper's experiment on today's kernel: CSV, figures and docs/results/paper-experiment.md (20 minutes)
	@scripts/paper.sh

accept: ## Compare the overlay with theory and measurements, in full (hours); see docs/acceptance.md
	@scripts/accept.sh

scenarios: ## Run every shipped scenario with ten seeds (hours) and write docs/results/scenarios.md
	@scripts/scenarios.sh

fuzz: ## Fuzz every parser for FUZZ_SECONDS each (60) and add what is new to tests/fuzz/corpus
	@scripts/fuzz.sh

pages: ## Write the tables of settings and metrics into the documents, from the code
	@scripts/pages.sh

clean: ## Remove everything that make has made
	@scripts/clean.sh
