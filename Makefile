.PHONY: fast test lint bench check

fast:            ## the tests that take minutes off nobody's day
	pytest -q -m "not slow"

test: lint       ## everything that CI runs
	pytest -q

lint:
	ruff check .
	ruff format --check .

bench:           ## the dense suite; SUITE=name for another
	python scripts/bench.py --suite=$(or $(SUITE),dense)

check:           ## the gradients of every config that needs no download
	for c in digits_mlp iris xor; do python scripts/check_gradients.py --config=configs/$$c.py || exit 1; done
