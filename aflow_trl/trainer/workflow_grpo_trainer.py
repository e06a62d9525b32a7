"""TRL's GRPO trainer with the advantage step replaced."""

from __future__ import annotations

import functools
import logging
import math
from pathlib import Path
from typing import Any, ClassVar

import torch
from accelerate.utils import gather_object
from peft import PeftModel
from torch import Tensor
from torch.distributed.checkpoint.stateful import Stateful
from trl import GRPOTrainer

from ..rollouts import METRIC_COLUMNS, workflow_metrics
from ..storage import TraceFile
from .callbacks.guards import NumericalGuard, SyncGuard
from .checkpoint import LAYOUT, load_state, save_state
from .estimation import FEATURE_COLUMNS, EstimatorSettings, clip, estimate_advantages
from .metrics import advantage_metrics
from .samplers import StratifiedSampler, strata_of
from .workflow_grpo_config import TRL_ESTIMATORS, WorkflowGRPOConfig

logger = logging.getLogger(__name__)

REWARDS_FILE = "rewards.jsonl.gz"


class WorkflowGRPOTrainer(GRPOTrainer):
    """
    Trainer for Workflow-Aware GRPO (WA-GRPO).

    Differs from [`~trl.GRPOTrainer`] in the advantage only: the primary reward decides, the weighted mean of the
    others breaks ties (see [`~aflow_trl.trainer.advantages.wa_grpo`]). Reward functions may log a column `progress`
    with `log_extra`; it breaks ties among completions that are not right.

    Args:
        model (`str` or [`~transformers.PreTrainedModel`]):
            Policy, as in [`~trl.GRPOTrainer`].
        reward_funcs (`Callable` or `list[Callable]`):
            Reward functions, as in [`~trl.GRPOTrainer`]; see [`~aflow_trl.rewards.workflow_rewards`].
        args ([`WorkflowGRPOConfig`], *optional*):
            Configuration.
        **kwargs:
            Everything else [`~trl.GRPOTrainer`] takes (`train_dataset`, `peft_config`, `processing_class`, …).

    Example:

    ```python
    trainer = WorkflowGRPOTrainer(
        model="Qwen/Qwen2.5-7B-Instruct",
        reward_funcs=workflow_rewards(Rollouts(engine)),
        args=WorkflowGRPOConfig(output_dir="runs/compose", num_generations=8),
        train_dataset=dataset,
        peft_config=LoraConfig(r=64),
    )
    trainer.train()
    ```
    """

    _tag_names: ClassVar[list[str]] = ["trl", "aflow-trl", "wa-grpo"]
    _name = "WA-GRPO"

    def __init__(self, model: Any, reward_funcs: Any, args: WorkflowGRPOConfig | None = None, **kwargs: Any) -> None:
        if args is None:
            name = model if isinstance(model, str) else model.config._name_or_path
            args = WorkflowGRPOConfig(f"{name.split('/')[-1]}-WA-GRPO")
        super().__init__(model, reward_funcs, args=args, **kwargs)
        self.model_card_sections = ""
        """Markdown appended to the model card."""
        self.record_rewards = False
        """Whether rewards and advantages of every step are appended to `rewards.jsonl.gz` in `output_dir`."""
        self.batch_shares: dict[str, tuple[float, int]] = {}
        """Share of valid workflows and of right answers among the latest completions, and their number."""
        self.gradient_norm = 0.0
        """Norm of the latest gradient, before it was clipped."""
        self.guard = NumericalGuard(args.nonfinite)
        self.guard.scaled = self.accelerator.scaler is not None
        self.add_callback(self.guard)
        self.sync_guard = SyncGuard(args.max_sampling_logp_difference)
        self.add_callback(self.sync_guard)
        # What vLLM reports of a distribution that was cut down (to a language, or to its top) cannot be compared.
        cut = args.vllm_structured_outputs_regex is not None or args.top_p < 1.0 or bool(args.top_k or args.min_p)
        self._whole_distribution = not cut
        self._primary = self._primary_index(args.primary_reward)
        self._temperature_cell = _temperature_cell(self.model) if args.temperature_initial is not None else None
        if args.stop_strings and not self.use_vllm:
            # `generate` needs the tokenizer to find stop strings, and TRL does not pass it.
            self.model.generate = functools.partial(self.model.generate, tokenizer=self._tokenizer)

    def _get_train_sampler(self, dataset: Any = None) -> StratifiedSampler:
        sampler = super()._get_train_sampler(dataset)
        data, args = sampler.data_source, self.args
        columns = {name: [0] * len(data) for name in ("domain", "difficulty")}
        if args.balance_domains or args.hard_share is not None:
            wanted = ["domain"] * args.balance_domains + ["difficulty"] * (args.hard_share is not None)
            if missing := set(wanted) - set(data.column_names):
                raise ValueError(f"balanced batches need the column {sorted(missing)[0]!r} in the training data.")
            columns |= {name: data[name] for name in wanted}
        strata, weights = strata_of(
            columns, by_domain=args.balance_domains, hard_share=args.hard_share, hard_from=args.hard_from
        )
        return StratifiedSampler(sampler, strata, weights)

    def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        loss = super().compute_loss(*args, **kwargs)
        if self.model.training:
            self.guard.look("loss", loss)
        return loss

    def _get_per_token_logps_and_entropies(self, *args: Any, **kwargs: Any) -> Any:
        output = super()._get_per_token_logps_and_entropies(*args, **kwargs)
        # All that is left of the logits: TRL's fused head never holds them as a whole.
        if self.model.training:
            self.guard.look("log-probabilities", output[0])
        return output

    def _get_grad_norm(self, *args: Any, **kwargs: Any) -> Any:
        norm = super()._get_grad_norm(*args, **kwargs)
        self.gradient_norm = float(norm)
        return norm

    def _primary_index(self, name: str | None) -> int:
        if name is None:
            return 0
        if name not in self.reward_func_names:
            known = ", ".join(self.reward_func_names)
            raise ValueError(f"primary_reward is {name!r}, but the reward functions are {known}.")
        return int(self.reward_func_names.index(name))

    def _calculate_rewards(self, *args: Any, **kwargs: Any) -> Tensor:
        rewards: Tensor = super()._calculate_rewards(*args, **kwargs)
        # Kept for the advantage step; (B*G, number of reward functions), gathered from all processes.
        self._gathered_rewards = rewards
        self._gathered_features = {name: self._gather_column(name) for name in FEATURE_COLUMNS}
        self._gathered_workflows = gather_object(list(self._pending_extra_logs.get("workflow", [])))
        self._whole_batch = self._whole_batch_metrics()
        return rewards

    def _whole_batch_metrics(self) -> dict[str, float]:
        """Metrics of the completions of all processes; TRL would average those of each."""
        own = self._pending_extra_logs
        if not all(name in own for name in METRIC_COLUMNS):
            return {}
        rows = gather_object(list(zip(*(own[name] for name in METRIC_COLUMNS), strict=True)))
        return workflow_metrics(dict(zip(METRIC_COLUMNS, zip(*rows, strict=True), strict=True)))

    def _gather_column(self, name: str) -> Tensor | None:
        values = self._pending_extra_logs.get(name)
        if values is None:
            return None
        local = [float("nan") if value is None else float(value) for value in values]
        gathered: Tensor = self.accelerator.gather(torch.tensor(local, device=self.accelerator.device))
        return gathered

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        mode = "train" if self.model.training else "eval"
        if mode == "train" and self.args.temperature_initial is not None:
            self._set_temperature(self.args.temperature_at(self.state.global_step))
        output: dict[str, Any] = super()._generate_and_score_completions(inputs)
        for name, value in self._whole_batch.items():
            if self._metrics[mode].get(name):
                self._metrics[mode][name][-1] = value
        size = self.num_generations if mode == "train" else self.num_generations_eval
        if self.args.advantage_estimator in TRL_ESTIMATORS or size < 2:
            advantages = clip(self.accelerator.gather(output["advantages"]), self.args.advantage_clip)
        else:
            advantages = self._estimate(size)
        self._replace_advantages(output, advantages)
        if mode == "train" and self.record_rewards and self.accelerator.is_main_process:
            self._record(advantages)
        if mode == "train":
            count = self._gathered_rewards.shape[0]
            known = {"valid": "workflows/valid", "accuracy": "accuracy/all"}
            logged = {name: self._metrics[mode][key][-1] for name, key in known.items() if key in self._metrics[mode]}
            scored = round(count * (1 - self._whole_batch.get("workflows/unscored", 0.0)))
            sizes = {"valid": count, "accuracy": scored}
            self.batch_shares = {name: (value, sizes[name]) for name, value in logged.items()}
            difference = self._metrics[mode].get("sampling/sampling_logp_difference/mean")
            if difference and self._whole_distribution:
                self._metrics[mode]["sampling/stale"].append(float(self.sync_guard.look(difference[-1])))
        self._metrics[mode]["nonfinite_steps"].append(float(self.guard.skipped))
        primary = self._gathered_rewards[:, self._primary]
        for name, value in advantage_metrics(primary, advantages, size, self.args.tie_tolerance).items():
            self._metrics[mode][name].append(value)
        return output

    def _estimate(self, num_generations: int) -> Tensor:
        """Advantages of all processes' completions, shape (B*G,)."""
        args, rewards = self.args, self._gathered_rewards
        settings = EstimatorSettings(
            args.advantage_estimator,
            args.advantage_scale,
            args.tie_break_alpha,
            args.tie_tolerance,
            self._primary,
            num_generations,
            args.advantage_clip,
        )
        weights = self.reward_weights.to(rewards.device)
        seed = args.seed + self.state.global_step
        return estimate_advantages(
            rewards, weights, self._gathered_features, self._gathered_workflows, settings, seed=seed
        )

    def _record(self, advantages: Tensor) -> None:
        """Keep rewards and advantages of a step beside its traces, for replays."""
        row = {
            "step": self.state.global_step,
            "rewards": [
                [None if math.isnan(value) else value for value in own] for own in self._gathered_rewards.tolist()
            ],
            "advantages": advantages.tolist(),
        }
        TraceFile(Path(self.args.output_dir) / REWARDS_FILE).append([row])

    def _replace_advantages(self, output: dict[str, Any], advantages: Tensor) -> None:
        """Put the advantages where the loss reads them (local slice) and where they are logged (all)."""
        count = output["advantages"].shape[0]
        start = self.accelerator.process_index * count
        output["advantages"] = advantages[start : start + count].to(output["advantages"])
        for _ in range(min(advantages.numel(), len(self._logs["advantages"]))):
            self._logs["advantages"].pop()
        self._logs["advantages"].extend(advantages.tolist())

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
        if self.args.stop_strings:
            # A sequence that a stop string ended is filled up with padding the policy never sampled.
            completion_ids = [self._strip_padding(ids) for ids in completion_ids]
        return completion_ids, logprobs

    def _strip_padding(self, ids: list[int]) -> list[int]:
        pad = self._tokenizer.pad_token_id
        end = len(ids)
        while end > 1 and ids[end - 1] == pad:
            end -= 1
        text = self._tokenizer.decode(ids[:end])
        # "in", not "ends with": the last token may reach beyond the stop string.
        return ids[:end] if any(stop in text for stop in self.args.stop_strings) else ids

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        save_state(Path(output_dir), self.accelerator.process_index, self._rollout_state())
        # The main process deletes older checkpoints next; until all have written, those are the only whole ones.
        self.accelerator.wait_for_everyone()

    def _load_rng_state(self, checkpoint: str | None) -> None:
        super()._load_rng_state(checkpoint)
        if checkpoint is None:
            return
        state = load_state(Path(checkpoint), self.accelerator.process_index)
        if state is None:
            logger.warning("%s was not written by this trainer: the run goes on, but not exactly", checkpoint)
            return
        self._restore_rollout_state(state, checkpoint)

    def _rollout_state(self) -> dict[str, Any]:
        """What decides the steps after a checkpoint, beside parameters, optimiser and random numbers."""
        in_cycle = self._step % (self.args.steps_per_generation * self.num_iterations) != 0
        return {
            "learning_rate": self.args.learning_rate,
            "layout": {name: getattr(self.args, name) for name in LAYOUT},
            "micro_step": self._step,
            "buffer": self._buffered_inputs if in_cycle else None,
            "temperature": self.temperature,
            "metrics": {name: list(values) for name, values in self._metrics["train"].items()},
            "callbacks": {type(own).__name__: own.state_dict() for own in self._stateful_callbacks()},
        }

    def _restore_rollout_state(self, state: dict[str, Any], checkpoint: str) -> None:
        own = {name: getattr(self.args, name) for name in LAYOUT}
        if changed := [name for name, value in own.items() if state["layout"].get(name) != value]:
            name = changed[0]
            raise ValueError(
                f"{checkpoint} was trained with {name} {state['layout'].get(name)}, this run has {own[name]}. "
                "Resume with the same value, or start a new run from the adapter in it."
            )
        self._step = state["micro_step"]
        self._buffered_inputs = _to_device(state["buffer"], self.accelerator.device)
        # Optimiser and schedule come from the checkpoint; a rate that was changed since is meant.
        if (ratio := self.args.learning_rate / state["learning_rate"]) != 1:
            self.scale_learning_rate(ratio)
        if self.args.temperature_initial is not None:
            self._set_temperature(state["temperature"])
        self._metrics["train"].clear()
        for name, values in state["metrics"].items():
            self._metrics["train"][name].extend(values)
        for callback in self._stateful_callbacks():
            if (kept := state["callbacks"].get(type(callback).__name__)) is not None:
                callback.load_state_dict(kept)

    def scale_learning_rate(self, factor: float) -> None:
        """Multiply the learning rate from here on; the schedule goes on from where it is."""
        for group in self.optimizer.param_groups:
            group["lr"] *= factor
        for name in ("base_lrs", "_last_lr"):
            if hasattr(self.lr_scheduler, name):
                setattr(self.lr_scheduler, name, [rate * factor for rate in getattr(self.lr_scheduler, name)])

    def _stateful_callbacks(self) -> list[Any]:
        return [callback for callback in self.callback_handler.callbacks if isinstance(callback, Stateful)]

    def _set_temperature(self, value: float) -> None:
        """Use a temperature in generation and in the loss."""
        self.temperature = value
        if self.use_vllm:
            self.vllm_generation.temperature = value
        else:
            self.generation_config.temperature = value
            self.generation_kwargs["temperature"] = value
        if self._temperature_cell is not None:
            self._temperature_cell.cell_contents = value
        self._metrics["train"]["temperature"].append(value)

    def load_policy(self, folder: Path) -> None:
        """
        Take over the weights of an adapter, or of a whole model where nothing was adapted, before training.

        Args:
            folder (`Path`):
                Folder that a trainer of the same model and `peft_config` saved.
        """
        self._load_from_checkpoint(str(folder))
        # A vLLM engine that has generated before has the old weights.
        self._last_loaded_step = -1

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        super().create_model_card(*args, **kwargs)
        if self.model_card_sections and self.is_world_process_zero():
            with (Path(self.args.output_dir) / "README.md").open("a", encoding="utf-8") as card:
                card.write(f"\n{self.model_card_sections}\n")


def _to_device(value: Any, device: torch.device) -> Any:
    """Everything in a buffer of completions on a device."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {key: _to_device(own, device) for key, own in value.items()}
    return [_to_device(own, device) for own in value] if isinstance(value, list) else value


def _temperature_cell(model: Any) -> Any:
    """
    Where TRL's fused LM head keeps the temperature, or `None` where the trainer's own attribute is read.

    TRL fixes it in a closure when the trainer is built; a schedule has to reach it for the loss to use the temperature
    that generation used.
    """
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    function = getattr(base.forward, "__func__", base.forward)
    names = function.__code__.co_freevars
    return function.__closure__[names.index("temperature")] if "temperature" in names else None
