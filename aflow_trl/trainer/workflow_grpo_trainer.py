"""TRL's GRPO trainer with the advantage step replaced."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from collections import defaultdict, deque
from collections.abc import Awaitable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from accelerate.utils import gather_object
from torch import Tensor
from transformers import TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, HubStrategy
from transformers.utils import PushInProgress
from trl import GRPOConfig

from ..errors import RunStoppedError
from ..rewards import ProbeScorer, RewardBinding, reward_binding
from ..rollouts import (
    EVAL,
    TRAIN,
    RolloutRow,
    RowColumns,
    from_columns,
    in_phase,
    trace_name,
    workflow_metrics,
)
from .advantages import (
    AdvantageConfig,
    RewardBatch,
    clip_advantages,
    compute_advantages,
    split_rewards,
)
from .callbacks import (
    SKIP_UNDER_DEEPSPEED,
    CollapseGuard,
    Interruption,
    NumericalGuard,
    Probe,
    Share,
    StopConditions,
    SyncGuard,
    unchecked_because,
)
from .checkpoint import load_state, restore_rollout_state, rollout_state, save_state
from .completions_table import print_completions
from .cost_dial import CostDial
from .lag import LaggedTrainer
from .metrics import advantage_metrics
from .model_card import CardContent, model_card
from .publishing import check_hub_strategy, upload
from .recording import begin_recording, record_step
from .reward_roles import charges_of, primary_index, reward_batch, reward_roles, rollout_costs
from .samplers import check_balance, stratified_sampler
from .workflow_grpo_config import complete_config

logger = logging.getLogger(__name__)

T = TypeVar("T")
STATEFUL_CALLBACKS = (NumericalGuard, CollapseGuard, StopConditions)
STOPPING_CALLBACKS = (*STATEFUL_CALLBACKS, SyncGuard, Interruption)


class WorkflowGRPOTrainer(LaggedTrainer):
    """
    Trainer for Workflow-Aware GRPO (WA-GRPO).

    Differs from [`~trl.GRPOTrainer`] in the advantage: the primary reward decides, the weighted mean of the others
    breaks ties (see [`~aflow_trl.trainer.advantages.wa_grpo`]). A reward function may log a column `rollout/progress`
    with `log_extra`; it breaks ties among completions that are not right.

    With reward functions that execute workflows ([`~aflow_trl.rewards.workflow_rewards`]) it also stops the run with a
    checkpoint when the executor is lost, detects a collapse of the policy, and records traces; see the groups of
    parameters in [`WorkflowGRPOConfig`]. Without them, and with a plain [`~trl.GRPOConfig`] or none, it behaves as
    TRL's trainer.

    Args:
        model (`str` or [`~transformers.PreTrainedModel`]):
            Policy, as in [`~trl.GRPOTrainer`].
        reward_funcs (`Callable` or `list[Callable]`, *optional*):
            Reward functions, as in [`~trl.GRPOTrainer`].
        args ([`WorkflowGRPOConfig`] or [`~trl.GRPOConfig`], *optional*):
            Configuration. A plain [`~trl.GRPOConfig`] leaves the advantage to TRL.
        *others, **kwargs:
            Everything else [`~trl.GRPOTrainer`] takes (`train_dataset`, `peft_config`, `processing_class`, …).

    Raises:
        `ValueError`: The configuration contradicts itself or the reward functions, or these cannot score the data.

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

    def __init__(
        self, model: Any, reward_funcs: Any = None, args: GRPOConfig | None = None, *others: Any, **kwargs: Any
    ) -> None:
        functions = reward_funcs if isinstance(reward_funcs, list) else [reward_funcs]
        self._binding: RewardBinding | None = next(filter(None, map(reward_binding, functions)), None)
        args = complete_config(model, functions, args)
        check_hub_strategy(args)
        if self._binding is not None:
            self._binding.check(others[0] if others else kwargs.get("train_dataset"))
        super().__init__(model, reward_funcs, args, *others, **kwargs)
        self._completions_to_print: int | None = args.num_completions_to_print
        # TRL prints none.
        self.num_completions_to_print = 0
        self.card_content: CardContent | None = None if self._binding is None else CardContent()
        """What the model card says; `None` for the card of TRL."""
        self.batch_shares: dict[str, tuple[float, int]] = {}
        """Shares of valid workflows and right answers in the latest batch, with the number of independent samples."""
        self.gradient_norm = 0.0
        """Norm of the latest gradient, before clipping."""
        weights = self.reward_weights.tolist()
        self.primary = primary_index(args, self.reward_func_names, weights)
        self.reward_roles = reward_roles(args, self.reward_func_names, weights)
        """Which reward decides, and where the others break ties."""
        targets = args.cost_targets
        self.cost_dial = None if targets is None else CostDial(*targets)
        """What rollouts are charged for their cost; `None` without a target."""
        check_balance(self.train_dataset, args)
        self._sync_unchecked = unchecked_because(args)
        if self.use_vllm and self._sync_unchecked is not None:
            logger.warning("max_sampling_logp_difference is not checked: %s", self._sync_unchecked)
        self._add_callbacks()

    def _add_callbacks(self) -> None:
        args = self.args
        self.numerical_guard = NumericalGuard(args.nonfinite)
        self.numerical_guard.scaled = self.accelerator.scaler is not None
        self.numerical_guard.steps_in_backward = self.is_deepspeed_enabled
        if self.is_deepspeed_enabled and args.nonfinite == "skip":
            raise ValueError(SKIP_UNDER_DEEPSPEED)
        self.sync_guard = SyncGuard(args.max_sampling_logp_difference)
        self.collapse_guard: CollapseGuard | None = None
        for callback in (self.numerical_guard, self.sync_guard):
            self.add_callback(callback)
        if self._binding is None:
            return
        rollouts = self._binding.rollouts
        rollouts.logs_workflow_metrics = False
        self._names_traces = args.save_traces and rollouts.trace_path is None
        if self._names_traces:
            rollouts.trace_path = Path(args.output_dir) / trace_name(self.accelerator.process_index)
        if self.train_dataset is not None:
            probe_size = max(args.probe_problems, self.accelerator.num_processes)
            self.watch_collapse(list(itertools.islice(self.train_dataset, probe_size)), self._binding.score_probe)
        self.add_callback(StopConditions(rollouts, args.max_unscored_share, args.max_lost_steps))

    # -- what is watched ---------------------------------------------------------------------------------------------

    def watch_collapse(self, rows: Sequence[RowColumns], score_probe: ProbeScorer) -> CollapseGuard | None:
        """
        Watch for a collapse of the policy, as `collapse_guard` says.

        The trainer does this itself where its reward functions execute workflows.

        Args:
            rows (`Sequence[Mapping[str, Any]]`):
                Rows of the probe, each with a `prompt`; the same on every process.
            score_probe ([`~aflow_trl.rewards.ProbeScorer`]):
                Scores the completions of this process.

        Returns:
            [`CollapseGuard`], *optional*: The guard; `None` if it is off.
        """
        if self.args.collapse_guard == "off":
            return None
        if self.args.collapse_guard == "rollback" and self.numerical_guard.mode == "stop":
            # A rollback undoes what a step with NaN has done, so there is no need to stop the run for it.
            self.numerical_guard.mode = "skip"
        prompts = [row["prompt"] for row in rows]

        def probe() -> Probe:
            local_rows = self.local_share(rows)
            texts = self.sample(prompts, seed=self.args.seed)[: len(local_rows)]
            step = self.state.global_step
            flags = self.run_async(score_probe(texts, local_rows, seed=self.args.seed, step=step))
            self.raise_fatal()
            shares = {}
            for name in sorted(flags):
                gathered = gather_object(flags[name])
                if gathered:
                    shares[name] = Share(sum(gathered) / len(gathered), len(gathered))
            return Probe(self.local_share(prompts), texts, shares)

        self.collapse_guard = CollapseGuard(self, probe, self.args.collapse_guard, self.args.probe_steps)
        self.add_callback(self.collapse_guard)
        return self.collapse_guard

    def raise_fatal(self) -> None:
        """Raise on every process the error after which the executor of any process can serve no further call."""
        errors = gather_object([None if self._binding is None else self._binding.rollouts.engine.fatal])
        for error in errors:
            if error is not None:
                raise error

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log, as TRL's trainer, with a table of completions that can be read."""
        super().log(logs, start_time)
        is_batch = "reward" in logs or "eval_reward" in logs
        if is_batch and self.log_completions and self.accelerator.is_main_process:
            name = self.reward_func_names[self.primary]
            print_completions(self._logs, name, self.state.global_step, self._completions_to_print)

    # -- training ----------------------------------------------------------------------------------------------------

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """
        Train, as [`~transformers.Trainer.train`].

        Raises:
            [`RunStoppedError`]: The run was stopped before its last step; the message says why, and which checkpoint
                it can be resumed from.
        """
        if self._binding is not None and self.args.save_traces:
            begin_recording(
                self, self._binding.rollouts, resumed=bool(resume_from_checkpoint), names_traces=self._names_traces
            )
        is_profiled = self._binding is not None or self.args.rollout_lag > 0
        # The last callback, so that it sees what the others take.
        if is_profiled and self.timeline not in self.callback_handler.callbacks:
            self.add_callback(self.timeline)
        try:
            output = super().train(resume_from_checkpoint, *args, **kwargs)
        finally:
            self.discard_rollouts()
        for callback in self.callback_handler.callbacks:
            if isinstance(callback, STOPPING_CALLBACKS) and callback.reason is not None:
                raise RunStoppedError(f"{callback.reason}.{self._resume_hint()}")
        return output

    def _resume_hint(self) -> str:
        step = self.state.global_step
        checkpoint = Path(self.args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{step}"
        if not checkpoint.is_dir():
            return ""
        return (
            f" Step {step} is saved in {checkpoint}: fix the cause and start the same command again with --resume "
            "(in Python: train(resume_from_checkpoint=True))."
        )

    def _get_train_sampler(self, dataset: Any = None) -> Any:
        return stratified_sampler(super()._get_train_sampler(dataset), self.args)

    def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        loss = super().compute_loss(*args, **kwargs)
        if self.model.training:
            self.numerical_guard.check("loss", loss)
        return loss

    def _get_per_token_logps_and_entropies(self, *args: Any, **kwargs: Any) -> Any:
        output = super()._get_per_token_logps_and_entropies(*args, **kwargs)
        # The logits themselves cannot be checked: TRL's fused head never holds them as a whole.
        if self.model.training:
            self.numerical_guard.check("log-probabilities", output[0])
        return output

    def _get_grad_norm(self, *args: Any, **kwargs: Any) -> Any:
        norm = super()._get_grad_norm(*args, **kwargs)
        self.gradient_norm = float(norm)
        return norm

    @property
    def advantage_config(self) -> AdvantageConfig:
        """Settings of WA-GRPO's advantage in training."""
        may_abstain = reward_binding(self.reward_funcs[self.primary]) is None
        return self.args.advantage_config(self.num_generations, self.primary, primary_may_abstain=may_abstain)

    def _calculate_rewards(self, *args: Any, **kwargs: Any) -> Tensor:
        # Kept for the advantage step: (B*G, R), gathered from all processes.
        rewards: Tensor = super()._calculate_rewards(*args, **kwargs)
        self._gathered_rewards = rewards
        return rewards

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        mode = TRAIN if self.model.training else EVAL
        if mode == TRAIN and self.args.temperature_initial is not None:
            self.set_temperature(self.args.temperature_at(self.state.global_step))
            self._metrics[TRAIN]["temperature"].append(self.temperature)
        temperature = contextlib.nullcontext() if mode == TRAIN else self.final_temperature()
        with temperature, in_phase(mode), self._captured_columns() as columns:
            output: dict[str, Any] = super()._generate_and_score_completions(inputs)
        size = self.num_generations if mode == TRAIN else self.num_generations_eval
        if self.args.uses_trl_advantages or size < 2:
            gathered = self.accelerator.gather(output["advantages"])
            advantages = clip_advantages(gathered, self.args.advantage_clip)
        else:
            advantages = self.group_advantages(columns, size)
        self._replace_advantages(output, advantages)
        prices = None if self.cost_dial is None else dict(self.cost_dial.prices)
        self._log_batch(mode, columns, advantages, size)
        if mode == TRAIN and self._binding is not None and self.args.save_traces and self.accelerator.is_main_process:
            folder = Path(self.args.output_dir)
            record_step(folder, self.state.global_step, self._gathered_rewards, advantages, prices)
        return output

    @contextlib.contextmanager
    def _captured_columns(self) -> Iterator[dict[str, deque[Any]]]:
        """
        Columns that reward functions log in this block, gathered by TRL from all processes.

        TRL appends them to tables that span several generations and are cut at a maximum length; inside the block it
        appends to empty ones.
        """
        tables = self._logs["extra"]
        captured: dict[str, deque[Any]] = defaultdict(deque)
        self._logs["extra"] = captured
        try:
            yield captured
        finally:
            self._logs["extra"] = tables
            for name, values in captured.items():
                tables[name].extend(values)

    def group_advantages(self, columns: Mapping[str, Sequence[Any]], size: int) -> Tensor:
        """Advantages of all processes' completions, shape (B*G,), from the gathered rewards and logged columns."""
        return compute_advantages(*self._advantage_inputs(columns, size))

    def _rows(self, columns: Mapping[str, Sequence[Any]]) -> list[RolloutRow]:
        """Rollouts of all processes, for the target of their cost."""
        rows = from_columns(columns)
        if rows is None:
            raise ValueError("a target for the cost needs reward functions that execute workflows (workflow_rewards).")
        return rows

    def _advantage_inputs(
        self, columns: Mapping[str, Sequence[Any]], size: int
    ) -> tuple[RewardBatch, AdvantageConfig]:
        charges = None
        if self.cost_dial is not None:
            dial = self.cost_dial
            charges = charges_of(self._rows(columns), dial.unit, dial.targets, dial.prices, size)
            charges = charges.to(self._gathered_rewards.device)
        batch = reward_batch(self._gathered_rewards, self.reward_weights, columns, charges)
        return batch, replace(self.advantage_config, num_generations=size)

    def _replace_advantages(self, output: dict[str, Any], advantages: Tensor) -> None:
        """Put the advantages where the loss reads them (local slice) and where they are logged (all)."""
        count = output["advantages"].shape[0]
        start = self.accelerator.process_index * count
        output["advantages"] = advantages[start : start + count].to(output["advantages"])
        for _ in range(min(advantages.numel(), len(self._logs["advantages"]))):
            self._logs["advantages"].pop()
        self._logs["advantages"].extend(advantages.tolist())

    def _log_batch(self, mode: str, columns: Mapping[str, Sequence[Any]], advantages: Tensor, size: int) -> None:
        """Metrics of the whole batch, over all processes."""
        metrics = self._metrics[mode]
        rows = from_columns(columns)
        values = {} if rows is None else workflow_metrics(rows)
        values["nonfinite_steps"] = float(self.numerical_guard.skipped)
        primary = self._gathered_rewards[:, self.primary]
        if not self.args.uses_trl_advantages and size > 1:
            primary = split_rewards(*self._advantage_inputs(columns, size))[0]
        values |= advantage_metrics(primary, advantages, size, self.args.tie_tolerance)
        if self.cost_dial is not None and mode == TRAIN:
            rollouts = self._rows(columns)
            costs = rollout_costs(rollouts, self.cost_dial.unit)
            values |= self.cost_dial.update(costs, [row.budget for row in rollouts])
        for name, value in values.items():
            metrics[name].append(value)
        if mode != TRAIN:
            return
        count = self._gathered_rewards.shape[0]
        # Whether a workflow is valid is up to the policy; whether its answer is right, also to the problem, which all
        # completions of a group share.
        problems = round(count * (1 - (metrics["workflows/unscored"] or [0.0])[-1]) / size)
        self.batch_shares = {
            name: (metrics[key][-1], number)
            for name, key, number in (("valid", "workflows/valid", count), ("accuracy", "accuracy/all", problems))
            if metrics.get(key)
        }
        difference = metrics.get("sampling/sampling_logp_difference/mean")
        if difference and self._sync_unchecked is None:
            metrics["sampling/stale"].append(float(self.sync_guard.check(difference[-1])))

    def run_async(self, awaitable: Awaitable[T]) -> T:
        """Run a coroutine on the event loop of the reward functions, which owns the executor's connections."""

        async def run() -> T:
            return await awaitable

        return asyncio.run_coroutine_threadsafe(run(), self.async_loop).result()

    # -- checkpoints -------------------------------------------------------------------------------------------------

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        save_state(Path(output_dir), self.accelerator.process_index, rollout_state(self))
        # The main process deletes older checkpoints next; until all have written, those are the only complete ones.
        self.accelerator.wait_for_everyone()

    def _load_rng_state(self, checkpoint: str | None) -> None:
        super()._load_rng_state(checkpoint)
        if checkpoint is None:
            return
        state = load_state(Path(checkpoint), self.accelerator.process_index)
        if state is None:
            logger.warning("%s was not written by this trainer: the run continues, but not bit-equal", checkpoint)
            return
        restore_rollout_state(self, state, checkpoint)

    def scale_learning_rate(self, factor: float) -> None:
        """Multiply the learning rate from here on; the schedule continues."""
        for group in self.optimizer.param_groups:
            group["lr"] *= factor
        for name in ("base_lrs", "_last_lr"):
            if hasattr(self.lr_scheduler, name):
                setattr(self.lr_scheduler, name, [rate * factor for rate in getattr(self.lr_scheduler, name)])

    def stateful_callbacks(self) -> dict[str, NumericalGuard | CollapseGuard | StopConditions]:
        """The callbacks of this package that keep state, by class; a user's own are transformers' business."""
        callbacks: list[TrainerCallback] = self.callback_handler.callbacks
        return {type(item).__name__: item for item in callbacks if isinstance(item, STATEFUL_CALLBACKS)}

    def load_policy(self, folder: Path) -> None:
        """
        Take over the weights of an adapter, or of a whole model where nothing was adapted, before training.

        With `beta` above 0 the KL divergence is then that from this policy.

        Args:
            folder (`Path`):
                Folder that a trainer of the same model and `peft_config` saved.
        """
        self._load_from_checkpoint(str(folder))
        if self.beta != 0.0:
            model = self.accelerator.unwrap_model(self.model)
            if self.ref_model is not None:
                self.accelerator.unwrap_model(self.ref_model).load_state_dict(model.state_dict())
            else:
                # The name under which TRL looks for the reference of an adapter that was trained before.
                model.load_adapter(str(folder), adapter_name="ref", is_trainable=False)
        # A vLLM engine that has generated before holds the old weights.
        self._last_loaded_step = -1

    def push_to_hub(
        self, commit_message: str = "End of training", blocking: bool = True, token: str | None = None, **kwargs: Any
    ) -> Any:
        """
        Upload model, tokenizer, model card and reports, as [`~transformers.Trainer.push_to_hub`], and nothing else: no
        traces, caches, journals or arguments.
        """
        if self.hub_model_id is None:
            self.init_hf_repo(token=token)
        # In all processes, as sharded parameters are gathered for it.
        self.save_model(_internal_call=True)
        if not self.is_world_process_zero():
            return None
        self.create_model_card(model_name=kwargs.pop("model_name", self.hub_model_id.split("/")[-1]))
        self._finish_current_push()
        options = kwargs if token is None else kwargs | {"token": token}
        return upload(self, self.args.output_dir, commit_message, run_as_future=not blocking, **options)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        if self.is_world_process_zero() and self.args.hub_strategy == HubStrategy.EVERY_SAVE:
            message = f"Training in progress, step {self.state.global_step}"
            job = upload(self, checkpoint_folder, message, run_as_future=True)
            self.push_in_progress = PushInProgress([job])

    def create_model_card(
        self, model_name: str | None = None, dataset_name: str | None = None, tags: str | list[str] | None = None
    ) -> None:
        """Write the model card, as [`~trl.GRPOTrainer.create_model_card`]."""
        if self.card_content is None:
            super().create_model_card(model_name, dataset_name, tags)
        elif self.is_world_process_zero():
            name = model_name or Path(self.args.output_dir).name
            tags = [tags] if isinstance(tags, str) else tags or []
            model_card(self, self.card_content, name, dataset_name, tags).save(
                Path(self.args.output_dir) / "README.md"
            )
