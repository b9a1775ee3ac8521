# One virtual environment serves every target; it is made anew when the requirements change.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LIBRARY := $(VENV)/library
READY := $(VENV)/ready
# Processes that the tests run in; each uses one thread. Three keep two cores busy, as some tests wait for a browser.
WORKERS ?= 3

.PHONY: demo studio test test-long coverage lint format clean bench-noise wheel docs notebooks

demo: $(LIBRARY)
	$(BIN)/noisetilt generate octopus "red heart" mushroom pear owl bell tomato "light bulb" --model emoji128 \
		--reward "0.5*style:3d + 0.5*alignment" --method ntrk-x0 --steps 25 --n 1 --seed 0 --out out/demo --overwrite

studio: $(READY)
	$(BIN)/noisetilt studio

test: $(READY)
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder

# The tests that take long: the studio in a browser, the site, the notebooks, all documents, training, torch.compile.
test-long: $(READY)
	@command -v chromium >/dev/null || echo "chromium is not installed: the browser tests of the studio are skipped"
	$(BIN)/python -m pytest -m long --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder

# All tests, with the fraction of lines that they run.
coverage: $(READY)
	$(BIN)/python -m pytest --numprocesses $(WORKERS) -m '' --dist loadfile --no-loadscope-reorder --cov --cov-report term

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/bandit --quiet --configfile pyproject.toml --recursive src
	$(BIN)/python recipes/audit_dependencies.py constraints.txt

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Of build only what setuptools writes there: recipes keep their results in the same folder.
wheel: $(READY)
	rm -rf build/lib build/bdist.*
	$(BIN)/python -m build --wheel --no-isolation

# The library with what generates images; the tools of development come on top, so that the demo need not wait for them.
$(LIBRARY): pyproject.toml constraints.txt
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[plot,completion,diffusers,rewards]"
	touch $(LIBRARY)

# k-diffusion without what it asks for: torchvision among it, which the one function tested against never uses.
$(READY): $(LIBRARY)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[dev]"
	$(BIN)/pip install --quiet --no-deps --constraint constraints.txt k-diffusion
	touch $(READY)

# The projections of noisetilt.noise beside a sort of the same tensor, and their growth; draws with matplotlib.
bench-noise: $(READY)
	$(BIN)/python recipes/noise/bench.py docs/images/noise-speed.png

# The site in build/site; its pages of notebooks have outputs once `make notebooks` has run them.
docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict
	@echo "open build/site/index.html"

notebooks: $(READY)
	$(BIN)/python recipes/docs/run_notebooks.py

# It keeps out and build, where commands and recipes write results that may have taken hours.
clean:
	rm -rf $(VENV) build/lib build/bdist.* build/site dist src/*.egg-info .coverage* .mypy_cache .pytest_cache .ruff_cache .hypothesis
