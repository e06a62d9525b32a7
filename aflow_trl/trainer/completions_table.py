"""The sample of completions that `log_completions` prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from ..console import report_console
from ..rollouts import completion_text
from ..text import model_text

TABLE_WIDTH = 80
MAX_CELL_CHARS = 160
DEFAULT_ROWS = 4


def print_completions(logs: Mapping[str, Any], reward_name: str, step: int, count: int | None) -> None:
    """
    Print the completions with the highest and the lowest advantages, in 80 columns.

    TRL's table has a column for each reward and logged value, which leaves none of them legible.

    Args:
        logs (`Mapping[str, Any]`):
            TRL's table: `prompt`, `completion`, `advantages`, and `rewards` by name.
        reward_name (`str`):
            Reward to show.
        step (`int`):
            Step, for the title.
        count (`int`, *optional*):
            Maximum number of completions. Defaults to [`DEFAULT_ROWS`].
    """
    advantages = list(logs["advantages"])
    order = sorted(range(len(advantages)), key=lambda index: -advantages[index])
    count = DEFAULT_ROWS if count is None else count
    if count < len(order):
        order = order[: (count + 1) // 2] + order[len(order) - count // 2 :]
    if not order:
        return
    table = Table(title=f"completions of step {step}", title_justify="left", show_lines=True)
    table.add_column("question", ratio=2)
    table.add_column("completion", ratio=3, overflow="fold")
    for heading in ("reward", "advantage"):
        table.add_column(heading, justify="right", no_wrap=True)
    rewards = list(logs["rewards"][reward_name])
    for index in order:
        reward = rewards[index]
        table.add_row(
            _cell(_last_text(logs["prompt"][index])),
            _cell(completion_text(logs["completion"][index])),
            "-" if reward is None or reward != reward else f"{reward:.2f}",
            f"{advantages[index]:+.2f}",
        )
    report_console(width=TABLE_WIDTH).print(table)


def _last_text(prompt: str | Sequence[Mapping[str, Any]]) -> str:
    """Text of a prompt, or of its last message: the problem comes last."""
    return prompt if isinstance(prompt, str) else str(prompt[-1]["content"])


def _cell(text: str) -> str:
    text = " ".join(model_text(text).split())
    return text if len(text) <= MAX_CELL_CHARS else f"{text[: MAX_CELL_CHARS - 2]} …"
