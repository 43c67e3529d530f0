.PHONY: fast test nightly lint bench check

fast:            ## the fast suite
	pytest -q -m "not slow"

test: lint       ## everything that CI runs
	pytest -q

nightly:         ## what only repeats at scale, test by test
	pytest -v -m nightly

lint:
	ruff check .
	ruff format --check .
	mypy

bench:           ## the dense suite; SUITE=name for another
	python scripts/bench.py --suite=$(or $(SUITE),dense)

check:           ## the gradients of three configs; tests/commands/test_check_gradients.py has them all
	for c in digits_mlp iris xor; do python scripts/check_gradients.py --config=configs/$$c.py || exit 1; done
