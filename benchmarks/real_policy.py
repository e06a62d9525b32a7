"""
A real pretrained policy learns to compose: from no valid workflow to the ceiling of the search.

    python benchmarks/real_policy.py MODEL OUT [--seeds 0 1 2] [--problems N] [-- FLAGS]

MODEL is a GGUF file, a folder or a Hub id. First the untrained policy is asked with each prompt of
`configs/policy_prompts.yaml`. Then `recipes/smollm2-135m-cpu.yaml` is run for each seed, with FLAGS after it; what is
finished is not repeated. The tables and `report.json` in OUT have every stage.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from aflow_trl.console import report_console
from aflow_trl.data import PolicyPrompt, load_rows, policy_prompts
from aflow_trl.dsl import extract
from aflow_trl.operators import DEFAULT_OPERATORS
from aflow_trl.policies import (
    ModelOptions,
    SamplingOptions,
    load_model,
    load_tokenizer,
    sample_completions,
    takes_system_role,
)
from aflow_trl.scoring.statistics import mean_interval, wilson_interval
from aflow_trl.storage import write_json

RECIPE = "smollm2-135m-cpu.yaml"
SAMPLING = SamplingOptions(temperature=0.7, top_p=0.95, max_completion_length=48)
"""As in the recipe, but shorter: untrained completions seldom end by themselves."""
BATCH = 16


def ask_untrained(model: str, problems: int) -> dict[str, Any]:
    """Share of valid workflows of the untrained policy and speed of its generation, by prompt."""
    options = ModelOptions(dtype="float32")
    policy, tokenizer = load_model(model, options).eval(), load_tokenizer(model, options)
    rows = load_rows("synthetic", split="test", count=problems)
    figures = {}
    for name in policy_prompts():
        prompt = PolicyPrompt(name, DEFAULT_OPERATORS, takes_system_role(tokenizer))
        messages = [prompt.messages(row) for row in rows]
        lengths = [
            len(tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=True)["input_ids"])
            for chat in messages
        ]
        started = time.monotonic()
        texts = [
            completions[0]
            for completions in sample_completions(
                policy, tokenizer, messages, SAMPLING, seed=0, batch_size=BATCH, num_samples=1
            )
        ]
        seconds = time.monotonic() - started
        valid = sum(extract(text).workflow is not None for text in texts)
        written = sum(len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts)
        figures[name] = {
            "valid": valid / problems,
            "interval": wilson_interval(valid, problems),
            "n": problems,
            "prompt_tokens": sum(lengths) / problems,
            "completion_tokens_per_s": written / seconds,
            "prompt_tokens_per_s": sum(lengths) / seconds,
        }
        print(f"untrained, prompt {name}: {valid} of {problems} valid", flush=True)
    return figures


def train(model: str, out: Path, seed: int, flags: Sequence[str]) -> dict[str, Any]:
    """Summary of the recipe with this seed, and what the training took."""
    folder = out / f"seed-{seed}"
    if not (folder / "summary.json").is_file():
        command = [sys.executable, "-m", "accelerate.commands.launch", "-m", "aflow_trl.train", RECIPE]
        command += ["--model_name_or_path", model, "--seed", str(seed), "--output_dir", str(folder), *flags]
        subprocess.run(command, check=True)
        # The largest process of those that have ended, in KiB on Linux.
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / 1e9
        write_json(folder / "peak.json", {"peak_rss_gb": peak})
    summary: dict[str, Any] = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    if (peak_file := folder / "peak.json").is_file():
        # A kill may have come between the two files.
        summary |= json.loads(peak_file.read_text(encoding="utf-8"))
    lines = [json.loads(line) for line in (folder / "progress.jsonl").read_text(encoding="utf-8").splitlines()]
    steps = [line for line in lines if line["phase"] == "training" and line.get("unit") == "steps"]
    if len(steps) > 1:
        summary["seconds_per_step"] = (steps[-1]["time"] - steps[0]["time"]) / (steps[-1]["done"] - steps[0]["done"])
    return summary


def stage_table(summaries: dict[int, dict[str, Any]]) -> Table:
    """Valid share, accuracy and calls of each stage, as means over seeds."""
    table = Table("", *(f"seed {seed}" for seed in summaries), "mean", "95 % over seeds", title="held-out accuracy")
    for name in ("untrained", "best_fixed", "best_per_group", "warm_start", "trained"):
        values = [summary["accuracy"][name]["mean"] for summary in summaries.values() if name in summary["accuracy"]]
        if len(values) == len(summaries):
            mean = mean_interval(values)
            interval = f"{mean.low:.3f}–{mean.high:.3f}" if len(values) > 1 else ""
            table.add_row(name, *(f"{value:.3f}" for value in values), f"{mean.mean:.3f}", interval)
    return table


def main() -> None:
    """Ask, train and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--problems", type=int, default=64)
    parser.add_argument("flags", nargs="*", help="flags of the training, after --")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    asked = options.out / "untrained.json"
    if not asked.is_file():
        write_json(asked, ask_untrained(options.model, options.problems))
    untrained = json.loads(asked.read_text(encoding="utf-8"))
    summaries = {seed: train(options.model, options.out, seed, options.flags) for seed in options.seeds}
    prompts = Table("prompt", "tokens", "valid", "95 %", "tokens/s read", "tokens/s written", title="untrained policy")
    for name, figures in untrained.items():
        low, high = figures["interval"]
        prompts.add_row(
            *(name, f"{figures['prompt_tokens']:.0f}", f"{figures['valid']:.3f}", f"{low:.3f}–{high:.3f}"),
            *(f"{figures['prompt_tokens_per_s']:.0f}", f"{figures['completion_tokens_per_s']:.0f}"),
        )
    console = report_console()
    console.print(prompts)
    console.print(stage_table(summaries))
    write_json(options.out / "report.json", {"untrained": untrained, "seeds": summaries})


if __name__ == "__main__":
    main()
