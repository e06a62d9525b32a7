"""Metadata is in `pyproject.toml`, but for the description that package indexes show."""

import re
from pathlib import Path

from setuptools import setup


def description() -> str:
    """The README without pictures and links into the repository, which lead nowhere outside of it."""
    text = (Path(__file__).parent / "README.md").read_text(encoding="utf-8")
    text = re.sub(r"^!\[[^]]*\]\((?!https?:)[^)]*\)\n+", "", text, flags=re.MULTILINE)
    return re.sub(r"\[([^]]*)\]\((?!https?:|#)[^)]*\)", r"\1", text)


setup(long_description=description(), long_description_content_type="text/markdown")
