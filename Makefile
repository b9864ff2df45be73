# Everything on a fresh machine: make demo, then make test.
#
#   make demo     install, export a bundle, restore a photograph, print an FPS table
#   make dev      an editable install to work in, with all tools
#   make lint     format, style, types, who may import whom
#   make unit     the Python tests against the wheel built from the sdist
#   make cpp      build and test the C++ runtime, by itself and against the Python one
#   make bare     the wheel alone in an empty environment
#   make test     all of these (minutes); what it leaves out is marked slow:
#   make slow     full sizes, torch.compile, the C++ runtime under sanitizers and fuzzed at length
#   make test-all make test, then make slow
#   make gpu-check  what needs a GPU, on a machine with one
#   make gpu-results  measure that GPU and rewrite docs/results/gpu.md
#   make arm64    both runtimes on 64-bit ARM, the Jetson's processor, emulated (minutes)
#   make results  measure this machine and rewrite docs/results (bench-results: elir-bench's alone)
#
# CONTRIBUTING.md says which of them to run after which change, and what exactly is slow.
# TORCH picks the build of PyTorch and PIP_ARGS is handed to pip, so a CPU-only one is
#   make demo PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu"

PYTHON ?= python3
VENV ?= .venv
TORCH ?= torch==2.13.0
PIP_ARGS ?=
# Tasks that bench-results measures, with random weights.
RESULT_TASKS ?= sr bsr bfr
BIN := $(VENV)/bin
PIP := $(BIN)/pip --disable-pip-version-check -q
export PATH := $(abspath $(BIN)):$(PATH)
CPP := build/cpp
TESTED := $(abspath build/tested)

.PHONY: demo test test-all lint unit bare slow every-test cpp cpp-release cpp-address cpp-slow gpu-check gpu-results arm64 wheel dev \
    schema tiny results bench-results clean

$(VENV)/.torch: Makefile
	$(PYTHON) -m venv $(VENV)
	$(PIP) install -U "pip>=25.1" $(PIP_ARGS)
	$(PIP) install $(TORCH) $(PIP_ARGS)
	touch $@

$(VENV)/.user: $(VENV)/.torch pyproject.toml
	$(PIP) install -e ".[export,cpu]" $(PIP_ARGS)
	touch $@

$(VENV)/.dev: $(VENV)/.torch pyproject.toml
	$(PIP) install -e ".[export,cpu,openvino,tensorrt-rtx,train,eval,report,sensors,heif,ray,serve,video]" $(PIP_ARGS)
	$(PIP) install --group dev $(PIP_ARGS)
	$(PIP) install --no-deps "tensorrt-stubs>=10.13" $(PIP_ARGS)  # types alone, without TensorRT
	touch $@

dev: $(VENV)/.dev

demo: $(VENV)/.user
	rm -rf demo
	elir-export tiny -o demo/bundle
	elir-restore demo/bundle demo/bundle/reference/astronaut.input.png -o demo/restored --compare
	elir-bench demo/bundle --images 20 --warmup 3 --json demo/bench.json
	@echo "input beside result: demo/restored/astronaut.input.compare.png"

# The package is tested as users get it: the wheel, built from the sdist. It stands beside a copy of the
# tests, where it hides the sources from them and, by PYTHONPATH, from the processes they start; the
# editable install stays.
wheel: $(VENV)/.dev
	rm -rf dist $(TESTED) && mkdir -p $(TESTED)/docs
	$(BIN)/python -m build -q
	$(PIP) install --no-deps --target $(TESTED) dist/*.whl
	cp -r tests benchmarks exporters runtime pyproject.toml Makefile CONTRIBUTING.md README.md $(TESTED)
	cp docs/*.md $(TESTED)/docs

# The wheel alone, in an empty environment: neither restoring nor building engines needs torch or onnx.
bare: wheel
	rm -rf build/bare build/bare-bundle build/bare-out build/bare-engines build/bare-device build/bare-photo
	elir-export random --task tiny --image-size 64 --precision fp32 -o build/bare-bundle
	$(PYTHON) -m venv build/bare
	build/bare/bin/pip --disable-pip-version-check -q install "$$(ls dist/*.whl)[cpu]" $(PIP_ARGS)
	build/bare/bin/elir-restore build/bare-bundle build/bare-bundle/reference/chelsea.input.png -o build/bare-out
	build/bare/bin/elir-inspect build/bare-bundle
	build/bare/bin/elir-bench build/bare-bundle --images 5 --warmup 1 --backend onnxruntime
	build/bare/bin/elir-restore tiny build/bare-bundle/reference/chelsea.input.png -o build/bare-out --existing overwrite
	cd $(TESTED) && python -m tests.photo.bare_photo ../bare-photo
	build/bare/bin/elir-restore build/bare-photo/bundle build/bare-photo/group.png -o build/bare-out \
	    --background tiny --scale 2 --events build/bare-photo/events.jsonl
	test "$$(grep -o '"restored": true' build/bare-photo/events.jsonl | wc -l)" = 3
	build/bare/bin/pip --disable-pip-version-check -q install tensorrt-rtx-cu12-libs tensorrt-rtx-cu12-bindings $(PIP_ARGS)
	build/bare/bin/elir-build tiny --target rtx2080ti --precision fp16 -o build/bare-engines --overwrite
	cd $(TESTED) && ../bare/bin/python -m tests.export.tensorrt.bare_device tiny -o ../bare-device
	test -s build/bare-device/fused.fp16.sm87.trt.engine
	! build/bare/bin/python -c "import torch"
	! build/bare/bin/python -c "import onnx"

# TensorRT's published types, made into valid Python: a keyword for a name, a default left out.
SITE = $(shell $(BIN)/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")
build/stubs: $(VENV)/.dev
	rm -rf $@ && mkdir -p $@
	cd $(SITE) && cp --parents tensorrt/*.pyi tensorrt_bindings/*.pyi $(abspath $@)
	sed -i -E 's/\bin: /in_: /; s/channel_axis: int\)/channel_axis: int = ...)/' $@/tensorrt_bindings/tensorrt.pyi

lint: $(VENV)/.dev build/stubs
	ruff check .
	ruff format --check .
	clang-format --dry-run --Werror $$(find runtime -name '*.[ch]' -o -name '*.[ch]pp')
	mypy
	mypy --platform win32 --cache-dir .mypy_cache/win32
	# Programs that import one another as scripts, and libraries without types.
	MYPYPATH=build/stubs:benchmarks mypy --no-warn-return-any --allow-untyped-calls --implicit-reexport \
	    --ignore-missing-imports benchmarks/*.py
	lint-imports

# The JSON Schema of bundle.json, from its definition in elir_deploy/runtime/manifest.py.
schema: $(VENV)/.dev
	mkdir -p build
	$(BIN)/python -c "from elir_deploy.runtime.manifest_file import manifest_schema; \
	    print(manifest_schema(), end='')" > build/schema.json
	mv build/schema.json elir_deploy/runtime/bundle.schema.json
	$(BIN)/python -c "from elir_deploy.bench.report_file import report_schema; \
	    print(report_schema(), end='')" > build/schema.json
	mv build/schema.json elir_deploy/bench/report.schema.json

# The HTML report's tests drive a browser, those of films ask ffprobe; where they cannot be had these are skipped.
build/.programs:
	mkdir -p build
	command -v chromium chromium-browser google-chrome > /dev/null \
	    || { apt-get update -q && apt-get install -y -q --no-install-recommends chromium; } \
	    || echo "no browser: the tests of the HTML report are skipped"
	command -v ffprobe > /dev/null \
	    || { apt-get update -q && apt-get install -y -q --no-install-recommends ffmpeg; } \
	    || echo "no ffprobe: the tests of what films keep are skipped"
	touch $@

PYTEST := cd $(TESTED) && PYTHONPATH=$(TESTED) pytest -n 2 --dist worksteal
WITH_LIBRARY := ELIR_LIBRARY=$(abspath $(CPP)/release/libelir.so)

# Without the tests of the C++ runtime.
unit: wheel build/.programs
	$(PYTEST) --durations=15 -m "not slow and not gpu"

every-test: wheel build/.programs cpp-release
	export $(WITH_LIBRARY); $(PYTEST) --durations=25 -m "not slow and not gpu"

# Two at a time what waits for a network or takes one core, the sanitized build among it, which needs
# no Python; then, in turn, what times or takes both.
test:
	$(MAKE) -j 2 IN_TURN=1 cpp-address lint bare cpp every-test

slow: wheel cpp-release cpp-slow
	export $(WITH_LIBRARY); $(PYTEST) --durations=25 -m "slow and not gpu"

test-all:
	$(MAKE) test
	$(MAKE) slow

ifdef IN_TURN
cpp-release: | lint bare build/.programs cpp-address
every-test: | cpp
build/.programs: | $(CPP)/.packages  # apt-get works alone
endif

# The C++ runtime: built, tested (also from Python, against the Python runtime), sanitized and fuzzed.
# CPP_SANITIZE=0 leaves the sanitized build and the fuzzers out.
CPP_SANITIZE ?= 1
CPP_PACKAGES := cmake ninja-build g++ clang libclang-rt-dev nlohmann-json3-dev libgtest-dev libpng-dev libssl-dev libstb-dev pkg-config
# For the GStreamer element; where they cannot be had, it is left out.
GST_PACKAGES := libgstreamer1.0-dev libgstreamer-plugins-base1.0-dev gstreamer1.0-plugins-base gstreamer1.0-tools
CPP_CONFIGURE := cmake -S runtime -G Ninja -DELIR_WERROR=ON -DELIR_BUILD_TESTS=ON
CPP_BARE := -DELIR_WITH_OPENVINO=OFF -DELIR_WITH_ONNXRUNTIME=OFF -DCMAKE_BUILD_TYPE= -DCMAKE_CXX_FLAGS=-O1 \
    -DCMAKE_C_COMPILER=clang -DCMAKE_CXX_COMPILER=clang++
CPP_ADDRESS := $(CPP_CONFIGURE) -B $(CPP)/address $(CPP_BARE) -DELIR_SANITIZE=address,undefined -DELIR_BUILD_FUZZERS=ON

# Debian's and Ubuntu's packages, where they are missing and this user may install them.
$(CPP)/.packages:
	mkdir -p $(CPP)
	dpkg -s $(CPP_PACKAGES) > /dev/null 2>&1 || { apt-get update -q && apt-get install -y -q $(CPP_PACKAGES); }
	dpkg -s $(GST_PACKAGES) > /dev/null 2>&1 || { apt-get update -q \
	    && apt-get install -y -q --no-install-recommends $(GST_PACKAGES); } \
	    || echo "without the GStreamer element"
	touch $@

# ONNX Runtime's header comes from Debian; where that cannot be had, the backend is left out.
CPP_ORT := $(abspath $(CPP))/ort

cpp-release: $(VENV)/.dev $(CPP)/.packages
	runtime/cmake/onnxruntime.sh $(CPP_ORT) $(abspath $(BIN))/python || echo "without the ONNX Runtime backend"
	$(CPP_CONFIGURE) -B $(CPP)/release -DELIR_BUILD_EXAMPLES=ON -DELIR_WITH_OPENVINO=ON \
	    -DCMAKE_INSTALL_LIBDIR="lib/$$(c++ -print-multiarch)" \
	    -DOpenVINO_DIR="$$($(BIN)/python -c 'import openvino, pathlib; print(pathlib.Path(openvino.__file__).parent / "cmake")')" \
	    -DELIR_WITH_ONNXRUNTIME=$$(test -e $(CPP_ORT)/include/onnxruntime_c_api.h && echo ON || echo OFF) \
	    -DOnnxRuntime_INCLUDE_DIR=$(CPP_ORT)/include -DOnnxRuntime_LIBRARY=$(CPP_ORT)/lib/libonnxruntime.so
	cmake --build $(CPP)/release

# Sanitized, and each fuzzer for seconds: enough to see that it runs and finds nothing near its seeds.
cpp-address: $(CPP)/.packages
ifneq ($(CPP_SANITIZE),0)
	$(CPP_ADDRESS) -DFUZZ_RUNS=2000
	cmake --build $(CPP)/address
	ctest --test-dir $(CPP)/address -j 2 --output-on-failure
endif

cpp: cpp-release cpp-address
	ctest --test-dir $(CPP)/release -j 2 --output-on-failure -LE slow
ifndef IN_TURN  # else it is among every-test
	$(WITH_LIBRARY) $(BIN)/python -m pytest -n 2 -m "not slow" tests/runtime_cpp
endif

# Leaks of the backends' libraries; data races; each fuzzer for a minute.
cpp-slow: cpp-release $(CPP)/.packages
	ctest --test-dir $(CPP)/release -j 2 --output-on-failure -L slow
ifneq ($(CPP_SANITIZE),0)
	$(CPP_CONFIGURE) -B $(CPP)/thread $(CPP_BARE) -DELIR_SANITIZE=thread -DELIR_WITH_PNG=OFF
	cmake --build $(CPP)/thread
	ctest --test-dir $(CPP)/thread -j 2 --output-on-failure
	$(CPP_ADDRESS) -DFUZZ_RUNS=-1
	cmake --build $(CPP)/address
	ctest --test-dir $(CPP)/address -j 2 --output-on-failure -R fuzz_
endif

# Needs a GPU, and a Python ($(PYTHON)) with this package's base, pytest, cuda-python and PyTorch with
# CUDA; where onnx, CuPy, onnxruntime-gpu, TensorRT or TensorRT-RTX is there, what they make or run, too. Tests that
# find no device are skipped, so that is asked first.
gpu-check:
	$(PYTHON) -c "import sys, torch; from elir_deploy.runtime.backends.base import missing_cuda_device; \
	    sys.exit(missing_cuda_device() or (None if torch.cuda.is_available() else 'PyTorch finds no CUDA device'))"
	$(PYTHON) -m pytest -m gpu -s tests/gpu

# Bundles that a GPU is measured with, made on any machine: random weights, but for tiny.
build/gpu/%:
	elir-export random --task $* --batch 8 --precision fp32 --precision fp16 --precision int8 -o $@

# Our bundles on this machine's GPU beside PyTorch, with the Python of gpu-check; GPU=cpu rehearses it.
GPU ?= cuda
gpu-results: build/gpu/bfr build/gpu/bsr
	$(PYTHON) benchmarks/gpu.py docs/results/gpu.md $^ tiny --device $(GPU) --compile bfr --kernels bfr

# 64-bit ARM, the Jetson's processor, under QEMU, by itself: the C++ runtime and its tests, then those Python
# tests that define pixels and refusals, against that library too. It needs no other target.
ARM := $(abspath build/arm64)
ARM_PACKAGES := mmdebstrap debian-archive-keyring qemu-user-static g++-aarch64-linux-gnu cmake ninja-build pkg-config
ARM_PLATFORMS := $(addprefix --platform manylinux,_2_28_aarch64 _2_27_aarch64 _2_17_aarch64 2014_aarch64)
ARM_SITE := $(ARM)/venv/lib/python3.11/site-packages
ARM_TESTS := $(addprefix tests/,runtime runtime_cpp $(addsuffix .py,test_pixels test_degradations test_output_files \
    test_operating_system test_packaged_model) \
    $(patsubst %,photo/test_%.py,alignment detection detectors faces paste restoring sampling))

$(ARM)/.root: runtime/cmake/arm64.sh
	dpkg -s $(ARM_PACKAGES) > /dev/null 2>&1 || { apt-get update -q && apt-get install -y -q $(ARM_PACKAGES); }
	rm -rf $(ARM) && mkdir -p $(ARM)
	runtime/cmake/arm64.sh $(ARM)/root
	touch $@

$(ARM)/.venv: $(ARM)/.root pyproject.toml Makefile
	rm -rf $(ARM)/venv $(ARM)/tools
	$(ARM)/root/usr/bin/python3 -m venv --without-pip $(ARM)/venv
	$(PYTHON) -m venv $(ARM)/tools
	$(ARM)/tools/bin/pip --disable-pip-version-check -q install --target $(ARM_SITE) --python-version 3.11 \
	    $(ARM_PLATFORMS) --only-binary=:all: ".[cpu]" onnx pytest pytest-xdist hypothesis tifffile $(PIP_ARGS)
	runtime/cmake/onnxruntime.sh $(ARM)/root/usr $(ARM)/venv/bin/python
	touch $@

arm64: $(ARM)/.venv
	cmake -S runtime -G Ninja -B $(ARM)/cpp -DCMAKE_TOOLCHAIN_FILE=$(abspath runtime/cmake/arm64.cmake) \
	    -DELIR_SYSROOT=$(ARM)/root -DCMAKE_INSTALL_LIBDIR=lib/aarch64-linux-gnu -DELIR_WERROR=ON \
	    -DELIR_BUILD_TESTS=ON -DELIR_BUILD_EXAMPLES=ON -DELIR_WITH_OPENVINO=OFF -DELIR_WITH_ONNXRUNTIME=ON
	cmake --build $(ARM)/cpp
	ctest --test-dir $(ARM)/cpp -j 2 --output-on-failure
	ELIR_LIBRARY=$(ARM)/cpp/libelir.so ELIR_EMULATOR="qemu-aarch64-static -L $(ARM)/root" \
	    $(ARM)/venv/bin/python -m pytest -n 2 --dist worksteal --durations=15 -m "not slow and not gpu" $(ARM_TESTS)

results: $(VENV)/.dev $(VENV)/.user
	$(PIP) install --group results $(PIP_ARGS)
	$(BIN)/python benchmarks/rewrites.py docs/results/rewrites.md
	$(BIN)/python benchmarks/precisions.py docs/results/precisions.md
	$(BIN)/python benchmarks/cost_model.py docs/results/cost-model.md
	$(BIN)/python benchmarks/engines.py docs/results/engines.md
	$(BIN)/python benchmarks/engine_shapes.py docs/results/engine-shapes.md
	$(MAKE) bench-results

# Speed of this machine, beside what else one could run; it should have nothing else to do.
bench-results: $(VENV)/.dev
	elir-bench tiny --peers all --json docs/results/tiny.json --report docs/results/tiny.md
	for task in $(RESULT_TASKS); do \
	    elir-export random --task $$task --precision fp32 --precision int8 --overwrite \
	        -o build/bench/$$task || exit 1; \
	    elir-bench build/bench/$$task --peers all --images 20 --warmup 3 \
	        --json docs/results/$$task.json --report docs/results/$$task.md || exit 1; \
	done

# The packaged bundle, anew from the packaged checkpoint. CALIBRATION is a folder of photographs, or
# the bundle whose calibration is used again.
CALIBRATION ?= elir_deploy/data/tiny.bundle
tiny: $(VENV)/.user
	elir-export tiny -o elir_deploy/data/tiny.bundle --overwrite --calibration $(CALIBRATION) \
	    --precision fp32 --precision fp16 --precision bf16 --precision int8 --precision w8

clean:
	rm -rf dist build demo $(VENV)
