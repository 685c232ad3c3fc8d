# `make` lists the commands. Each builds what it needs first; only Python 3.11 or 3.12, Java 17 and make must be there.
.DEFAULT_GOAL := help
.PHONY: help demo airflow test check bench lint doctest thrift package notebook clean lock machine

SUPPORTED := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))
PYTHON ?= $(shell for name in python3.11 python3.12 python3 python; do \
	$$name -c '$(SUPPORTED)' && command -v $$name && break; done 2>/dev/null)
BIN := .venv/bin
unexport PYTHONDONTWRITEBYTECODE  # or each of a thousand processes of the tests compiles anew whatever it imports
BENCH := features
PACKAGES := delorean snapshotter prana_proxy encoders schemas

help:  ## list the commands
	@sed -nE 's/^([a-z]+):.*## *(.*)/  make \1\t\2/p' Makefile | expand -t 18

demo: .venv/.ready machine  ## run a small streaming company from snapshots to a served model (ARGS="--movielens DIR …")
	@$(BIN)/delorean demo $(ARGS)

airflow: .venv/.ready .venv-airflow/.ready machine  ## run Airflow with that company, until Ctrl-C
	@exec $(BIN)/python -m delorean.demo.airflow $(ARGS)

test: .venv/.ready .venv-airflow/.ready .venv-mlflow/.ready machine  ## check everything: lint, types, layers, doctests, tests
	@$(MAKE) -s --no-print-directory -j 2 lint doctest .venv/spark.jsa
	@$(BIN)/python -m pytest -n 3 --durations 25 --durations-min 1 $(ARGS)  # three keep two cores busy: tests wait a lot

check: .venv/.ready machine  ## check what is quick: lint, types, layers, doctests, tests that take a moment and start no program
	@$(MAKE) -s --no-print-directory -j 2 lint doctest
	@$(BIN)/python -m pytest -q -n 2 -m "not program" --under 0.3 $(ARGS)

bench: .venv/.ready machine  ## measure: BENCH=features, as_of, as_of_spark, increments, snapshot, index, history, storage, score, train, consolidation, abtest, cluster or hung-service; or check at length: CHECK=asof or fuzz
	@$(BIN)/python -m benchmarks $(if $(CHECK),check-$(CHECK),$(BENCH)) $(ARGS)

lint: .venv/.ready machine  ## check style, types and that imports only go down
	@$(BIN)/ruff check -q .
	@$(BIN)/ruff format -q --check . || { echo "→ $(BIN)/ruff format ." >&2; exit 1; }
	@$(BIN)/mypy
	@$(BIN)/lint-imports

doctest: .venv/.ready machine
	@$(BIN)/python -m pytest -q --doctest-modules $(PACKAGES)

thrift: .venv/.ready  ## generate schemas/generated from schemas/prana.thrift (needs the Thrift compiler)
	@command -v thrift >/dev/null || { echo "the Thrift compiler is missing → apt-get install thrift-compiler" >&2; exit 1; }
	@thrift -r --gen py -out . schemas/prana.thrift && rm -f __init__.py schemas/generated/*-remote

package: .venv/.ready  ## pack what a cluster's executors need into build/environment.tar.gz (ARGS=--models: to train there, too)
	@$(BIN)/python .ci/package.py $(ARGS)

notebook: .venv/.ready machine  ## open the notebooks in JupyterLab, the demo's data ready (it is run first, if it has not been)
	@[ -e .demo/latest/summary.json ] || $(BIN)/delorean demo
	@$(BIN)/jupyter lab --LabApp.news_url=None \
		--LabApp.check_for_updates_class=jupyterlab.handlers.announcements.NeverCheckForUpdate notebooks

COMPILE := $(BIN)/uv pip compile -q --universal --fork-strategy fewest --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-emit-find-links --upgrade --custom-compile-command "make lock"
lock: .venv/.ready  ## choose the versions anew and write requirements.lock, Airflow's and MLflow's
	@$(COMPILE) --extra connect --extra lightgbm --extra xgboost --extra tuning --extra tracking --extra bench --extra test --extra notebook -o requirements.lock setup.cfg
	@$(COMPILE) -o dags/requirements.lock dags/requirements.in
	@$(COMPILE) -o tests/mlflow/requirements.lock tests/mlflow/requirements.in

clean:  ## remove the environment and everything that was made
	@rm -rf .venv .venv-airflow .venv-mlflow .demo build dist *.egg-info .*_cache .hypothesis benchmarks/out spark-warehouse metastore_db derby.log
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Says in one line what the machine lacks. It is checked every time: Java may go away.
machine:
	@"$(PYTHON)" -c '$(SUPPORTED)' 2>/dev/null || { \
		echo "Python 3.11 or 3.12 is missing: $(or $(PYTHON),python3) is $$($(or $(PYTHON),python3) -V 2>/dev/null || echo not there)" \
		"→ install one with its venv module, or name it: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@"$(PYTHON)" -P snapshotter/spark/system_requirements.py

# The stamp comes last: an interrupted build, or a new lock, is built again, mostly from the installers' caches.
.venv/.ready: requirements.lock setup.cfg .ci/install.py | machine
	@rm -f $@
	@"$(PYTHON)" -m venv --clear .venv
	@$(BIN)/python .ci/install.py || { rm -f $@; exit 1; }
	@touch $@

# Airflow's packages and Spark's cannot share an environment: DAGs start the programs of the other one.
.venv-airflow/.ready: dags/requirements.lock .venv/.ready
	@rm -f $@
	@"$(PYTHON)" -m venv --clear .venv-airflow
	@$(BIN)/python .ci/install.py .venv-airflow dags/requirements.lock || { rm -f $@; exit 1; }
	@touch $@

# MLflow's server needs an older pyarrow than ours; only tests start it.
.venv-mlflow/.ready: tests/mlflow/requirements.lock .venv/.ready
	@rm -f $@
	@"$(PYTHON)" -m venv --clear .venv-mlflow
	@$(BIN)/python .ci/install.py .venv-mlflow tests/mlflow/requirements.lock || { rm -f $@; exit 1; }
	@touch $@

# Classes that Spark's JVMs of the tests need not load one by one.
.venv/spark.jsa: .venv/.ready tests/support/quick_jvm.py
	@$(BIN)/python tests/support/quick_jvm.py 2>.venv/spark.log || { cat .venv/spark.log >&2; exit 1; }
