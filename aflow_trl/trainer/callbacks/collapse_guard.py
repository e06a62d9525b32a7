"""Collapse detection with optional rollback: every step is compared with the last good policy."""

from __future__ import annotations

import logging
import math
import statistics
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ...errors import FatalEndpointError
from ...scoring.statistics import wilson_interval
from ..timeline import GUARD

if TYPE_CHECKING:
    from ..workflow_grpo_trainer import WorkflowGRPOTrainer

logger = logging.getLogger(__name__)

WINDOW_STEPS = 3
"""Number of steps whose mean proportion is compared: one odd batch is no collapse."""
MAX_KL = 2.0
"""Maximum KL divergence from the last good policy, in nats per token. Ten ordinary steps of a tiny policy at a high
learning rate move it by 0.3."""
GRADIENT_FACTOR = 100.0
"""A gradient norm this many times the median of the earlier ones counts as a collapse, ..."""
CLIPPED_FACTOR = 10.0
"""... if it is also this many times the norm that gradients are clipped to."""
GRADIENT_STEPS = 50
"""Number of gradient norms that the median is taken over."""
MIN_GRADIENT_STEPS = 10
"""Minimum number of them for a comparison."""
KL_COMPLETIONS = 8
"""Number of completions per process whose log-probabilities estimate the KL divergence."""
LR_FACTOR = 0.5
"""Factor on the learning rate at each rollback."""
MAX_ROLLBACKS = 3


@dataclass(frozen=True, slots=True)
class Share:
    """A proportion and its sample size."""

    value: float
    n: int
    """Number of independent samples."""

    def collapsed_from(self, best: Share) -> bool:
        """Whether it is below half of `best`, and not by chance (95 % Wilson intervals do not overlap)."""
        if not self.value < best.value / 2:
            return False
        return wilson_interval(self.value * self.n, self.n)[1] < wilson_interval(best.value * best.n, best.n)[0]


@dataclass(frozen=True, slots=True)
class Probe:
    """Completions of the policy for a few fixed prompts."""

    prompts: Sequence[Any]
    """Prompts of this process."""
    texts: Sequence[str]
    """Completions of these prompts."""
    shares: Mapping[str, Share]
    """Valid share and accuracy over all processes, equal on each."""


class CollapseGuard(TrainerCallback):
    """
    Watches every optimiser step, and stops the run or rolls it back to the last good state when the policy collapses.

    It watches the shares of valid workflows and of right answers in the latest batches; the same on a fixed probe,
    every `probe_steps` steps; the KL divergence from the policy of the last good probe, estimated on completions of
    that policy; and the gradient norm. A share has collapsed when it is less than half of the best so far and chance
    does not explain it. Low entropy over workflows is only logged: a policy that has found the best workflow has it.

    Watching draws no random number of the training: as long as nothing collapses, a guarded run is bit-equal to an
    unguarded one.

    Args:
        trainer ([`~aflow_trl.WorkflowGRPOTrainer`]):
            Trainer to watch.
        probe (`Callable[[], Probe]`):
            Samples the policy on the probe.
        mode (`str`):
            `"stop"`, or `"rollback"`: parameters and optimiser state of the last good probe are restored, the
            learning rate is halved and training continues; after [`MAX_ROLLBACKS`] it stops.
        probe_steps (`int`, *optional*, defaults to `10`):
            Probe every `probe_steps` steps.

    Raises:
        `ValueError`: `"rollback"` where parameters are sharded over processes.
    """

    def __init__(
        self, trainer: WorkflowGRPOTrainer, probe: Callable[[], Probe], mode: str, probe_steps: int = 10
    ) -> None:
        if mode == "rollback" and (trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled):
            raise ValueError(
                "collapse_guard: rollback keeps whole parameters, which FSDP and DeepSpeed shard. Use collapse_guard: "
                "stop, or DDP."
            )
        self.trainer, self.probe, self.mode, self.probe_steps = trainer, probe, mode, probe_steps
        self.reason: str | None = None
        """Why training was stopped; `None` if it was not."""
        self.rollbacks = 0
        self.events: list[str] = []
        """Collapses so far, with their steps."""
        self._best: dict[str, Share] = {}
        self._recent: dict[str, deque[Share]] = {}
        self._gradients: deque[float] = deque(maxlen=GRADIENT_STEPS)
        self._good: dict[str, Any] = {}

    def state_dict(self) -> dict[str, Any]:
        """State that a checkpoint holds."""
        return {
            "rollbacks": self.rollbacks,
            "events": self.events,
            "best": {name: (share.value, share.n) for name, share in self._best.items()},
            "recent": {name: [(share.value, share.n) for share in shares] for name, shares in self._recent.items()},
            "gradients": list(self._gradients),
            "good": self._good,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state of a checkpoint."""
        self.rollbacks, self.events, self._good = state["rollbacks"], state["events"], state["good"]
        self._best = {name: Share(*fields) for name, fields in state["best"].items()}
        self._recent = {
            name: deque((Share(*fields) for fields in shares), WINDOW_STEPS)
            for name, shares in state["recent"].items()
        }
        self._gradients.extend(state["gradients"])
        if self.mode == "rollback" and "parameters" not in self._good:
            self._good = {}  # the checkpoint was written under "stop": a new good state is taken before the first step

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Take the policy that training starts from as the first good one; a resumed run has restored its own."""
        if not self._good:
            self._keep(self.probe(), state.global_step)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        """Check the step; every process comes to the same result."""
        with self.trainer.timeline.measure(GUARD):
            return self._check(state.global_step, control)

    def _check(self, step: int, control: TrainerControl) -> TrainerControl:
        complaint = self._check_step()
        if complaint is None and step % self.probe_steps == 0:
            try:
                probe = self.probe()
            except FatalEndpointError:
                # The executor is lost: StopConditions stops the run with a checkpoint after this very step.
                return control
            shares = {f"probe {name}": share for name, share in probe.shares.items()}
            complaint = self._compare(shares)
            for name, share in probe.shares.items():
                self._log(f"watch/probe_{name}", share.value)
            if complaint is None:
                self._note(shares)
                self._keep(probe, step)
        if complaint is not None:
            self._act(complaint, step, control)
        self._log("watch/rollbacks", float(self.rollbacks))
        return control

    def _check_step(self) -> str | None:
        """Description of a collapse after this step; `None` if there is none."""
        kl = self._kl()
        self._log("watch/kl", kl)
        if not kl <= MAX_KL:
            return f"the policy is {kl:.2f} nats per token from the last good one (maximum {MAX_KL:g})"
        stale = self.trainer.staleness.kl
        if stale is not None and not stale <= MAX_KL:
            return f"the policy is {stale:.2f} nats per token from the one that wrote the batch (maximum {MAX_KL:g})"
        enough = len(self._gradients) >= MIN_GRADIENT_STEPS
        median = statistics.median(self._gradients) if enough else math.inf
        norm = self.trainer.gradient_norm
        # A norm that is not finite never reaches the parameters (NumericalGuard), and a step without a gradient, where
        # there was nothing to learn, is no yardstick for later ones.
        if math.isfinite(norm) and norm > 0:
            # Where nearly all groups are tied the norm is next to nothing, and a single group that decides multiplies
            # it: clipped to `max_grad_norm`, that is an ordinary step.
            if norm > max(GRADIENT_FACTOR * median, CLIPPED_FACTOR * self.trainer.args.max_grad_norm):
                return f"the gradient norm is {norm:.3g}, the median of the steps before {median:.3g}"
            self._gradients.append(norm)
        means = {}
        # Taken once: further steps on the same completions carry no new information about them.
        shares, self.trainer.batch_shares = self.trainer.batch_shares, {}
        for name, share in shares.items():
            recent = self._recent.setdefault(name, deque(maxlen=WINDOW_STEPS))
            recent.append(Share(*share))
            if len(recent) == WINDOW_STEPS:
                total = sum(item.n for item in recent)
                means[name] = Share(sum(item.value * item.n for item in recent) / total, total)
        complaint = self._compare(means)
        if complaint is None:
            self._note(means)
        return complaint

    def _compare(self, shares: Mapping[str, Share]) -> str | None:
        for name, share in shares.items():
            best = self._best.get(name)
            if best is not None and share.collapsed_from(best):
                return f"{name} fell to {share.value:.2f} from {best.value:.2f}"
        return None

    def _note(self, shares: Mapping[str, Share]) -> None:
        for name, share in shares.items():
            if name not in self._best or share.value > self._best[name].value:
                self._best[name] = share

    def _act(self, complaint: str, step: int, control: TrainerControl) -> None:
        good = self._good["step"]
        self.events.append(f"step {step}: {complaint}")
        logger.warning("step %d: the policy collapsed: %s", step, complaint)
        if self.mode == "stop":
            self.reason = (
                f"the policy collapsed at step {step}: {complaint}; it was good at step {good}. Restart from a "
                "checkpoint before that with a lower learning_rate, or set collapse_guard: rollback"
            )
            control.should_save, control.should_training_stop = False, True
            return
        self._restore()
        if self.rollbacks > MAX_ROLLBACKS:
            self.reason = (
                f"the policy collapsed at step {step}: {complaint}, after {MAX_ROLLBACKS} earlier rollbacks; "
                f"the parameters of step {good} are restored. Lower learning_rate or max_grad_norm"
            )
            control.should_save = control.should_training_stop = True

    def _keep(self, probe: Probe, step: int) -> None:
        """Remember a good state and the log-probabilities of its completions."""
        inputs = self._encode(probe.prompts[:KL_COMPLETIONS], probe.texts[:KL_COMPLETIONS])
        self._good = {"step": step, "inputs": inputs, "logps": self._logps(inputs)}
        if self.mode == "rollback":
            self._good["parameters"] = [parameter.detach().to("cpu", copy=True) for parameter in self._trainable()]
            # Before the first step the optimiser has no state.
            self._good["optimizer"] = _to_cpu(self.trainer.optimizer.state_dict()) if step else None

    def _restore(self) -> None:
        trainer = self.trainer
        rates = [group["lr"] for group in trainer.optimizer.param_groups]
        with torch.no_grad():
            for parameter, kept in zip(self._trainable(), self._good["parameters"], strict=True):
                parameter.copy_(kept)
        if self._good["optimizer"] is None:
            trainer.optimizer.state.clear()
        else:
            trainer.optimizer.load_state_dict(self._good["optimizer"])
        for group, rate in zip(trainer.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        trainer.scale_learning_rate(LR_FACTOR)
        # Do not train on completions of the collapsed policy; and since the probe has sent its weights to vLLM, make
        # TRL send the restored ones.
        trainer._buffered_inputs = None
        trainer.discard_rollouts()
        trainer._last_loaded_step = -1
        self._recent.clear()
        self.rollbacks += 1

    def _trainable(self) -> list[Tensor]:
        return [parameter for parameter in self.trainer.model.parameters() if parameter.requires_grad]

    def _encode(self, prompts: Sequence[Any], texts: Sequence[str]) -> dict[str, Tensor]:
        """Prompts padded on the left, completions on the right: `input_ids`, `attention_mask`, `completion_mask`."""
        tokenizer, device = self.trainer._tokenizer, self.trainer.accelerator.device
        template = self.trainer.chat_template_kwargs
        rendered = [
            prompt
            if isinstance(prompt, str)
            else tokenizer.apply_chat_template(prompt, add_generation_prompt=True, tokenize=False, **template)
            for prompt in prompts
        ]
        prompt = tokenizer(rendered, padding=True, padding_side="left", add_special_tokens=False, return_tensors="pt")
        reply = tokenizer(
            list(texts), padding=True, padding_side="right", add_special_tokens=False, return_tensors="pt"
        )
        return {
            "input_ids": torch.cat([prompt["input_ids"], reply["input_ids"]], dim=1).long().to(device),
            "attention_mask": torch.cat([prompt["attention_mask"], reply["attention_mask"]], dim=1).long().to(device),
            "completion_mask": reply["attention_mask"].to(device),
        }

    def _logps(self, inputs: dict[str, Tensor]) -> Tensor:
        """Log-probabilities of the completions' tokens, shape (KL_COMPLETIONS, T)."""
        model, length = self.trainer.model, inputs["completion_mask"].shape[1]
        if length == 0:  # every completion is empty
            return inputs["completion_mask"].double()
        was_training = model.training
        model.eval()
        with torch.no_grad(), self.trainer.final_temperature():
            logps: Tensor = self.trainer._get_per_token_logps_and_entropies(
                model, inputs["input_ids"], inputs["attention_mask"], length
            )[0]
        model.train(was_training)
        return logps

    def _kl(self) -> float:
        """KL(last good ‖ current) in nats per token, estimated on completions of the last good policy."""
        inputs = {name: tensor.to(self.trainer.accelerator.device) for name, tensor in self._good["inputs"].items()}
        before = self._good["logps"].to(self.trainer.accelerator.device)
        mask = inputs["completion_mask"].bool()
        difference = (before - self._logps(inputs))[mask]
        sums = torch.stack([difference.double().sum(), mask.sum().double()])
        total, count = self.trainer.accelerator.reduce(sums, reduction="sum").tolist()
        return float(total / max(1.0, count))

    def _log(self, name: str, value: float) -> None:
        self.trainer._metrics["train"][name].append(value)


def _to_cpu(value: Any) -> Any:
    """A copy on the CPU of everything in a state dict."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: _to_cpu(item) for key, item in value.items()}
    return [_to_cpu(item) for item in value] if isinstance(value, list) else value
