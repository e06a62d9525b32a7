"""Versions of the packages that decide what a run does."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

PACKAGES = ("aflow_trl", "trl", "transformers", "peft", "accelerate", "torch", "vllm", "openai", "math-verify")


def versions() -> dict[str, str]:
    """Installed versions by package; one that is not installed is left out."""
    installed = {}
    for package in PACKAGES:
        try:
            installed[package] = version(package)
        except PackageNotFoundError:
            continue
    return installed
