# Needs root on Debian or Ubuntu, make and python3; installs the rest itself.
.PHONY: demo box test test-quick test-projects clean labs-down lint pictures tools

PY := .venv/bin/python
LAB := inventories/lab.py

demo: tools
	@echo "==> Lab: eight hosts on this machine"
	@.venv/bin/tierstack lab up $(LAB)
	@echo "==> Deploy: pyinfra $(LAB) deploy.py -y"
	@.venv/bin/pyinfra $(LAB) deploy.py -y
	@.venv/bin/tierstack graph $(LAB) --output build/cluster.svg
	@.venv/bin/tierstack status $(LAB)
	@echo "The picture of the cluster: build/cluster.svg"
	@$(PY) -m tests.screenshot $(LAB) build/site.png
	@echo "A web node more: add a line to $(LAB), then make demo again. All away: make clean"

box: tools
	@echo "==> Box for Vagrant's LXC provider: build/tierstack-lxc.box"
	@.venv/bin/tierstack lab box build/tierstack-lxc.box

test: tools
	@echo "==> Tests"
	@$(PY) -m pytest

test-quick: tools
	@echo "==> The model, and the first story"
	@$(PY) -m pytest tests/test_code.py tests/model tests/stories/test_1_first_deploy.py

# Other people's projects: what PyPI has of them changes, so it is run beside the rest.
test-projects: tools
	@echo "==> Projects of other people's shapes"
	@$(PY) -m pytest tests/projects

lint: tools
	@.venv/bin/ruff check . && .venv/bin/ruff format --check . && .venv/bin/mypy

# docs/cluster.svg and docs/ladder/: tests compare them with what the inventories give.
pictures: tools
	@echo "==> Pictures of the clusters in docs"
	@$(PY) -m tests.pictures

# What a test run that was cut off has left.
labs-down:
	@for lab in test-lab test-vm-lab test-ladder-lab test-media-lab test-projects-lab; do \
		for place in /var/lib /dev/shm; do \
			TIERSTACK_LAB_DIR=$$place/tierstack-$$lab .venv/bin/tierstack lab down; done; done

clean:
	@if [ -x .venv/bin/tierstack ]; then .venv/bin/tierstack lab down; $(MAKE) -s labs-down; fi
	@rm -rf .venv build *.egg-info

tools: .venv/ready

.venv/ready: pyproject.toml requirements.lock
	@echo "==> Tools: a virtual environment in .venv"
	@python3 -c 'import venv, ensurepip' 2>/dev/null || { \
		echo "    python3-venv"; apt-get update -q >/dev/null; \
		DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends python3-venv >/dev/null; }
	@test -x $(PY) || python3 -m venv .venv
	@$(PY) -m pip install -qq --disable-pip-version-check -r requirements.lock
	@$(PY) -m pip install -qq --disable-pip-version-check --no-deps -e .
	@touch $@
