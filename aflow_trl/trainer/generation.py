"""Generation of the trainer: TRL's with stop strings, a temperature schedule, and sampling outside training."""

from __future__ import annotations

import bisect
import contextlib
import functools
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import torch
from peft import PeftModel
from torch import Tensor
from trl import GRPOTrainer
from trl.trainer import utils as trl_utils

from ..rollouts import EVAL, TRAIN, completion_text
from ..storage import PROGRESS
from .workflow_grpo_config import WorkflowGRPOConfig

T = TypeVar("T")
SAMPLE_BATCH = 64
"""Prompts that [`GenerationTrainer.sample`] generates at once."""


class GenerationTrainer(GRPOTrainer):
    """
    [`~trl.GRPOTrainer`] with stop strings, a temperature schedule, and sampling of the policy outside training.

    A completion that a stop string ended is complete, as one that ended with the end-of-sequence token is: in the
    metrics, and for `mask_truncated_completions`. Completions are sampled without dropout.

    Takes the arguments of [`~trl.GRPOTrainer`]; `args` is a [`WorkflowGRPOConfig`].
    """

    args: WorkflowGRPOConfig
    num_generations_eval: int

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._stop_strings: list[str] = self.args.stop_strings or []
        # TRL would mask what a stop string ended, so these completions are masked here.
        self._masks_truncated = bool(self._stop_strings and self.args.mask_truncated_completions)
        if self._masks_truncated:
            self.mask_truncated_completions = False
        self._truncated: Tensor | None = None
        if self._stop_strings and not self.use_vllm:
            # `generate` needs the tokenizer to find stop strings, and TRL does not pass it.
            self.model.generate = functools.partial(self.model.generate, tokenizer=self._tokenizer)
        models = [self.model] if self.ref_model is None else [self.model, self.ref_model]
        self._temperature_cells = (
            [] if self.args.temperature_initial is None else [_temperature_cell(model) for model in models]
        )

    # -- ends of completions -----------------------------------------------------------------------------------------

    def _generate(self, prompts: list[Any]) -> Any:
        output = super()._generate(prompts)
        if self._stop_strings:
            self._log_ends(output[1], output[2])
        return output

    def _log_ends(self, completion_ids: Sequence[Sequence[int]], tool_mask: Sequence[Sequence[int]] | None) -> None:
        """Find the truncated completions, and log what TRL logs of them with stop strings counted as ends."""
        device = self.accelerator.device
        self._truncated = torch.tensor([not self._has_ended(ids) for ids in completion_ids], device=device)
        lengths = [len(ids) for ids in completion_ids] if tool_mask is None else [sum(mask) for mask in tool_mask]
        truncated = self.accelerator.gather(self._truncated)
        ended = self.accelerator.gather(torch.tensor(lengths, device=device))[~truncated].float()
        ended = ended if ended.numel() else torch.zeros(1)
        metrics = self._metrics[TRAIN if self.model.training else EVAL]
        metrics["completions/clipped_ratio"][-1] = truncated.float().mean().item()
        metrics["completions/mean_terminated_length"][-1] = ended.mean().item()
        metrics["completions/min_terminated_length"][-1] = ended.min().item()
        metrics["completions/max_terminated_length"][-1] = ended.max().item()

    def _has_ended(self, ids: Sequence[int]) -> bool:
        # Before trl 1.16, a model has one end-of-sequence token.
        eos_ids = getattr(self, "eos_token_ids", [self._tokenizer.eos_token_id])
        return ids[-1] in (*eos_ids, self._tokenizer.pad_token_id) or self._has_stop(ids)

    def _has_stop(self, ids: Sequence[int]) -> bool:
        # "in", not "ends with": the last token may reach beyond the stop string.
        text = self._tokenizer.decode(ids)
        return any(stop in text for stop in self._stop_strings)

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        output: dict[str, Any] = super()._generate_and_score_completions(inputs)
        if self._masks_truncated and self._truncated is not None:
            output["completion_mask"] = output["completion_mask"] * (~self._truncated).unsqueeze(1).int()
            mask = output["completion_mask"] * output.get("tool_mask", 1)
            output["num_items_in_batch"] = self.accelerator.gather(mask.sum()).sum()
        return output

    def _generate_single_turn(self, *args: Any, **kwargs: Any) -> tuple[list[list[int]], Any]:
        if self.use_vllm:
            generated: tuple[list[list[int]], Any] = super()._generate_single_turn(*args, **kwargs)
            return generated
        # TRL turns checkpointing off here but stays in train mode, where dropout (LoRA's too) would blur the samples.
        was_training = self.model.training
        self.model.eval()
        try:
            completion_ids, logprobs = super()._generate_single_turn(*args, **kwargs)
        finally:
            self.model.train(was_training)
        if self._stop_strings:
            completion_ids = [self._cut_at_stop(ids) for ids in completion_ids]
        return completion_ids, logprobs

    def _cut_at_stop(self, ids: list[int]) -> list[int]:
        """
        The completion up to the token with which the first stop string is complete.

        `generate` pads what a stop string has ended with tokens that the policy never sampled, and continuous batching
        does not know stop strings.
        """
        if not self._has_stop(ids):
            return ids
        return ids[: bisect.bisect_left(range(len(ids) + 1), True, key=lambda end: self._has_stop(ids[:end]))]

    # -- temperature -------------------------------------------------------------------------------------------------

    def set_temperature(self, value: float) -> None:
        """Use a temperature in generation, in the loss and in the log-probabilities of the reference model."""
        self.temperature = value
        if self.use_vllm:
            self.vllm_generation.temperature = value
        else:
            self.generation_config.temperature = value
            self.generation_kwargs["temperature"] = value
        for cell in self._temperature_cells:
            if cell is not None:
                cell.cell_contents = value

    @contextlib.contextmanager
    def final_temperature(self) -> Iterator[None]:
        """
        The temperature at the end of the schedule, in this block.

        Whatever is compared over a run is sampled and measured at it, or the schedule would be taken for a change of
        the policy.
        """
        if self.args.temperature_initial is None:
            yield
            return
        current = self.temperature
        self.set_temperature(self.args.temperature_at(self.args.temperature_warmup_steps))
        try:
            yield
        finally:
            self.set_temperature(current)

    # -- sampling outside training -----------------------------------------------------------------------------------

    def sample(self, prompts: Sequence[Any], *, seed: int) -> list[str]:
        """
        Completions of the current policy for this process's share of prompts, sampled in eval mode from a fixed seed.

        Args:
            prompts (`Sequence`):
                Prompts of all processes, in a form that the dataset may have.
            seed (`int`):
                Seed of the sampling; the random numbers of the training are not touched.

        Returns:
            `list[str]`: Completions of the share (see [`local_share`]), with up to one more where other processes
                have more prompts.
        """
        local = self.local_share(prompts)
        # Every process generates equally often, or collective operations would wait for ever.
        share = -(-len(prompts) // self.accelerator.num_processes)
        local += list(prompts[: share - len(local)])
        was_training: bool = self.model.training
        generations: int = self.num_generations_eval
        # Durations of a step have no place in a tracker outside of training, where its run may not be open.
        trackers, self.args.report_to = self.args.report_to, []
        self.model.eval()
        # The prompts are distinct. With more than one generation per prompt, TRL's server mode would send every n-th
        # prompt only and return n completions of each.
        self.num_generations_eval = 1
        texts: list[str] = []
        try:
            with self.final_temperature(), torch.random.fork_rng(devices=range(torch.cuda.device_count())):
                torch.manual_seed(seed)
                for start in range(0, share, SAMPLE_BATCH):
                    completions = self._generate(local[start : start + SAMPLE_BATCH])[3]
                    texts += [completion_text(completion) for completion in completions]
                    PROGRESS.count("completions", len(texts), share)
        finally:
            self.num_generations_eval = generations
            self.args.report_to = trackers
            self.model.train(was_training)
        self._metrics[EVAL].clear()
        return texts

    def local_share(self, items: Sequence[T]) -> list[T]:
        """This process's share of items of which every process holds all."""
        return list(items[self.accelerator.process_index :: self.accelerator.num_processes])


def _temperature_cell(model: Any) -> Any:
    """
    Closure cell in which TRL's fused LM head keeps the temperature, or `None` where it reads the trainer's attribute.

    TRL fixes it when the trainer is built; a schedule has to reach it for the loss to use the temperature that
    generation used.

    Raises:
        `RuntimeError`: The head of this release keeps its temperature elsewhere.
    """
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    # Mixed precision wraps the forward of a prepared model.
    forward = getattr(base, "_original_forward", base.forward)
    function = getattr(forward, "__func__", forward)
    names = function.__code__.co_freevars
    if "temperature" in names:
        return function.__closure__[names.index("temperature")]
    if hasattr(trl_utils, "add_fused_lm_head"):
        raise RuntimeError(
            "temperature_initial is set, but this release of trl keeps the temperature of its fused LM head where it "
            "cannot be changed. Use the release of trl that pyproject.toml names, or remove temperature_initial."
        )
    return None
