"""Workflows parsed per second, strictly and with every static check."""

from __future__ import annotations

import random
import time

from aflow_trl.dsl import format_workflow, parse, sample_workflow

COUNT = 10_000
"""Number of random workflows."""


def main() -> None:
    """Print the rate."""
    rng = random.Random(0)
    texts = [format_workflow(sample_workflow(rng)) for _ in range(COUNT)]
    # The first call builds the parser.
    parse(texts[0])
    started = time.perf_counter()
    for text in texts:
        parse(text)
    seconds = time.perf_counter() - started
    mean = sum(map(len, texts)) / COUNT
    print(
        f"parse: {COUNT / seconds:,.0f} workflows per second ({len(set(texts))} distinct, {mean:.0f} characters each)"
    )


if __name__ == "__main__":
    main()
