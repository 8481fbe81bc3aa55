# `make demo` and `make test` do everything on a bare Debian or Ubuntu machine: system packages, Python environment,
# firmware, and then the command. What is there already is left alone.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
KERNELS := pi0_edge/kernels
override PROCESSOR := $(shell uname -m)
INSTALLED := $(VENV)/.installed
WORKERS ?= 2
PROCESSORS ?= aarch64 x86_64

.PHONY: help demo test test-system test-all test-ptx fuzz lint lint-python lint-types lint-firmware lint-generated docs \
	firmware kernels kernels-jetson kernel-resources protos generated release setup system clean

help:
	@echo "make demo      the whole path on this machine: simulation, INT8 policy, bridge, firmware in QEMU"
	@echo "make test      the tests, on two processors (WORKERS=8 uses eight; OPTIONS='-k pattern' chooses)"
	@echo "make test-system  whole programs, services, emulated boards and machines (make test-all has them as well)"
	@echo "make test-all  also those that take minutes or gigabytes, with ten times the examples"
	@echo "make test-ptx  the kernels as nvcc compiled them, on the CPU (needs nvcc; make test-all has them as well)"
	@echo "make fuzz      both decoders of the serial link, a minute each (needs clang-14 and the extra fuzz)"
	@echo "make lint      style, types, the firmware by cppcheck, generated files, the documentation"
	@echo "make docs      the documentation site, into build/site"
	@echo "make firmware  the firmware image and the host library of its tests"
	@echo "make kernels   the CUDA kernels, compiled for this machine's processor (needs nvcc and cmake)"
	@echo "make kernels-jetson  the same for a Jetson with JetPack 6 or 7, on any machine (needs g++-aarch64-linux-gnu)"
	@echo "make kernel-resources  pi0_edge/kernels/resources.csv: registers, hot loops, predicted speed (needs nvcc and nvdisasm)"
	@echo "make protos    generated code of the gRPC and serial interfaces"
	@echo "make generated all generated files: interfaces, joint tables, the table of states, the command reference"
	@echo "make release   the wheels that robots install, for each processor, into dist (PROCESSORS=aarch64: only that)"
	@echo "make setup     only install what the others need (PYTHON=python3.12 chooses the interpreter)"

demo: setup firmware
	@$(BIN)/pi0-edge demo $(OPTIONS)

test: setup firmware
	@$(BIN)/python -m pytest -n $(WORKERS) $(OPTIONS)

test-system: setup firmware
	@$(BIN)/python -m pytest -n $(WORKERS) -m "system and not slow" $(OPTIONS)

test-all: setup firmware
	@$(BIN)/python -m pytest -n $(WORKERS) -m "not gpu" --hypothesis-profile thorough $(OPTIONS)

test-ptx: setup
	@$(BIN)/python -m pytest -n $(WORKERS) -m ptx $(OPTIONS)

fuzz: setup
	@$(BIN)/python tests/fuzz/run.py $(OPTIONS)

lint: lint-python lint-types lint-firmware lint-generated docs

lint-python: setup
	@echo "ruff: rules and formatting of every Python file"
	@$(BIN)/python -m ruff check --quiet .
	@$(BIN)/python -m ruff format --quiet --check .

# The Python package pyright fetches Node.js at its first run; without a network there may be none.
lint-types: setup
	@if $(BIN)/python -m pyright --version >/dev/null 2>&1; then \
		echo "pyright: types" && $(BIN)/python -m pyright --warnings; \
	else \
		echo "pyright: does not run here and checked nothing (it needs Node.js, or a network to fetch it)"; \
	fi

lint-firmware: setup
	@echo "cppcheck: the firmware"
	@$(MAKE) --no-print-directory -s -C firmware_bridge/firmware check

lint-generated: setup
	@echo "generated files: gRPC and serial interfaces, joint tables, table of states, command reference"
	@$(BIN)/python -m pi0_edge.protos.codegen.generate --check
	@$(BIN)/python -m firmware_bridge.firmware.generate_joints --check
	@$(BIN)/python -m firmware_bridge.lockstep.safety_table --check
	@$(BIN)/python tools/command_reference.py --check

docs: setup
	@echo "mkdocs: the documentation site, strictly"
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet --strict

firmware: system
	@$(MAKE) --no-print-directory -s -C firmware_bridge/firmware lm3s6965evb host
	@$(MAKE) --no-print-directory -s -C firmware_bridge/firmware lm3s6965evb ROBOT=aloha ACTUATORS=dynamixel BUILD=build/aloha
	@$(MAKE) --no-print-directory -s -C firmware_bridge/firmware lm3s6965evb ROBOT=so101 ACTUATORS=feetech BUILD=build/so101
	@! command -v npm >/dev/null || $(MAKE) --no-print-directory -s -C firmware_bridge/firmware rp2040js || \
		echo "the emulator of the Raspberry Pi Pico could not be installed: its tests will be skipped"

# CMAKE_OPTIONS reaches CMake, for example -DPI0_ARCHITECTURES=87-real for a Jetson Orin only.
kernels:
	@command -v nvcc >/dev/null && command -v cmake >/dev/null || { \
		echo "make kernels needs the CUDA toolkit (nvcc) and cmake; neither is needed to run what it builds." >&2; exit 1; }
	@cmake -S $(KERNELS)/cuda -B $(KERNELS)/build/$(PROCESSOR) -DCMAKE_BUILD_TYPE=Release $(CMAKE_OPTIONS) \
		>/dev/null
	@cmake --build $(KERNELS)/build/$(PROCESSOR) --parallel

# For JetPack 6 and 7 at once: NVIDIA's compilers of both CUDA versions come from the Python package index.
kernels-jetson: setup
	@$(BIN)/python tools/jetson_kernels.py

kernel-resources: setup
	@$(BIN)/python tests/apparatus/kernel_resources.py

protos: setup
	@$(BIN)/python -m pi0_edge.protos.codegen.generate

generated: protos
	@$(BIN)/python -m firmware_bridge.firmware.generate_joints
	@$(BIN)/python -m firmware_bridge.lockstep.safety_table
	@$(BIN)/python tools/command_reference.py

# `make kernels-jetson` before it puts the CUDA kernels into the wheel for aarch64.
release: setup
	@$(BIN)/python tools/release_wheels.py $(PROCESSORS:%=--processor %) --output dist

setup: system $(INSTALLED)

system:
	@PYTHON=$(PYTHON) sh tools/system_packages.sh

$(INSTALLED): pyproject.toml tools/python_environment.sh $(wildcard quant/native/*) | system
	@PYTHON=$(PYTHON) VENV=$(VENV) sh tools/python_environment.sh
	@touch $@

clean:
	@$(MAKE) --no-print-directory -s -C firmware_bridge/firmware clean
	@rm -rf runs/demo build/site dist $(KERNELS)/build
