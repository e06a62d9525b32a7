from pathlib import Path

from setuptools import find_packages, setup

setup(
    name="aflow_trl",
    version="0.1.0",
    description="Train language models to compose agentic workflows: a TRL extension with WA-GRPO",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.10",
    packages=find_packages(include=["aflow_trl", "aflow_trl.*"], exclude=["aflow_trl.configs", "aflow_trl.recipes"]),
    package_data={
        "aflow_trl": ["py.typed", "configs/*.yaml", "recipes/*.yaml", "accelerate_configs/*.yaml"],
        "aflow_trl.dsl": ["grammar.lark"],
        "aflow_trl.export": ["standalone.py.template"],
    },
    install_requires=[
        # 1.14 is the first release whose per-rank metrics are safe when ranks log different names.
        "trl>=1.14",
        "transformers>=5.17",
        "peft>=0.18",
        "accelerate>=1.12",
        "datasets>=4.0",
        "torch>=2.8",
        "openai[aiohttp]>=3.50",
        "aiohttp>=3.11",
        "httpx2>=2.0",
        "lark>=1.2",
        "math-verify>=0.9",
        "sympy>=1.12",
        "matplotlib>=3.8",
        "pyyaml>=6.0",
        # trl's vLLM client imports it up to 1.15 without asking for it.
        "requests>=2.31",
        "rich>=13.7",
        "tensorboard>=2.16",
    ],
    extras_require={
        "vllm": ["vllm>=0.22,<=0.31"],
        "quantization": ["bitsandbytes>=0.45"],
        "dev": [
            "hypothesis>=6.100",
            "mypy>=1.15",
            "psutil>=5.9",
            "pytest>=8.0",
            "pytest-asyncio>=1.0",
            "pytest-timeout>=2.3",
            "ruff>=0.9",
            "types-PyYAML",
        ],
    },
    entry_points={"console_scripts": ["aflow-trl = aflow_trl.cli:main"]},
)
