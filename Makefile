# `make demo` and `make test` do everything on a bare Debian or Ubuntu machine: system packages, Python environment,
# firmware, and then the command. What is there already is left alone.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: help demo test fuzz firmware protos lint setup system clean

help:
	@echo "make demo      the whole path on this machine: simulation, INT8 policy, bridge, firmware in QEMU"
	@echo "make test      the tests"
	@echo "make fuzz      both decoders of the serial link, a minute each (needs clang-14 and the extra fuzz)"
	@echo "make lint      ruff and pyright"
	@echo "make firmware  the firmware image and the host library of its tests"
	@echo "make protos    generated code of the gRPC and serial interfaces"
	@echo "make setup     only install what the others need (PYTHON=python3.12 chooses the interpreter)"

demo: setup firmware
	@$(BIN)/pi0-edge demo $(OPTIONS)

test: setup firmware
	@$(BIN)/python -m pytest $(OPTIONS)

fuzz: setup
	@$(BIN)/python tests/fuzz/run.py $(OPTIONS)

lint: setup
	@$(BIN)/python -m ruff check .
	@$(BIN)/python -m pyright

firmware: system
	@$(MAKE) --no-print-directory -s -C firmware_bridge/firmware lm3s6965evb host
	@! command -v npm >/dev/null || $(MAKE) --no-print-directory -s -C firmware_bridge/firmware rp2040js || \
		echo "the emulator of the Raspberry Pi Pico could not be installed: its tests will be skipped"

protos: setup
	@$(BIN)/python -m protos.generate

setup: system $(INSTALLED)

system:
	@PYTHON=$(PYTHON) sh tools/system_packages.sh

$(INSTALLED): pyproject.toml tools/python_environment.sh | system
	@PYTHON=$(PYTHON) VENV=$(VENV) sh tools/python_environment.sh
	@touch $@

clean:
	@$(MAKE) --no-print-directory -s -C firmware_bridge/firmware clean
	@rm -rf runs/demo
