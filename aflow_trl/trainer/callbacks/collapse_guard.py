"""A run cannot fall over unnoticed: what every step looks like beside the last good one, and the way back to that."""

from __future__ import annotations

import logging
import math
import statistics
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ...errors import FatalEndpointError
from ...scoring.statistics import wilson_interval
from ..workflow_grpo_trainer import WorkflowGRPOTrainer

logger = logging.getLogger(__name__)

COLLAPSE_GUARDS = ("off", "stop", "rollback")
WINDOW_STEPS = 3
"""Steps whose mean share is looked at: one odd batch is no collapse."""
MAX_KL = 2.0
"""Nats a token from the last good policy. Ten ordinary steps of a tiny policy at a high rate move it by 0.3."""
GRADIENT_FACTOR = 100.0
"""Times the median of the earlier gradient norms."""
GRADIENT_STEPS = 50
MIN_GRADIENT_STEPS = 10
KL_COMPLETIONS = 8
"""Completions of the last good policy whose probability is looked at in every step, a process."""
LR_FACTOR = 0.5
"""What a rollback does to the learning rate."""
MAX_ROLLBACKS = 3


@dataclass(frozen=True, slots=True)
class Share:
    """A share of so many."""

    value: float
    n: int

    def collapsed_from(self, best: Share) -> bool:
        """Whether it is less than half the best one, beyond what chance explains (95 % Wilson intervals apart)."""
        if not self.value < best.value / 2:
            return False
        return wilson_interval(self.value * self.n, self.n)[1] < wilson_interval(best.value * best.n, best.n)[0]


@dataclass(frozen=True, slots=True)
class Probe:
    """What the policy writes for a few fixed prompts."""

    prompts: Sequence[Any]
    """Conversational prompts of this process."""
    texts: Sequence[str]
    """Completions of these prompts."""
    shares: Mapping[str, Share]
    """Valid share, accuracy: over all processes, equal on each."""


class CollapseGuard(TrainerCallback):
    """
    Watches every optimiser step and ends the run, or takes it back to the last good state, when it has collapsed.

    Looked at are: the shares of valid workflows and of right answers in the last batches; the same on a fixed probe,
    every `probe_steps` steps; the KL divergence from the policy of the last good probe, estimated on its own
    completions; and the gradient norm. A share has collapsed when it is less than half of the best so far and chance
    does not explain it. A low entropy over workflows is logged only: a policy that has found the best workflow has it.

    Nothing that is looked at touches the random numbers of training: as long as nothing collapses, a guarded run is
    bit-equal to one without.

    Args:
        trainer ([`WorkflowGRPOTrainer`]):
            Trainer to watch.
        probe (`Callable[[], Probe]`):
            Samples the policy on the probe.
        mode (`str`):
            `"stop"`, or `"rollback"`: parameters, and the optimiser's state, are those of the last good probe again,
            the learning rate is halved, and training goes on; after [`MAX_ROLLBACKS`] it ends.
        probe_steps (`int`, *optional*, defaults to `10`):
            Steps between probes.

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
        """Why training was ended; `None` if it was not."""
        self.rollbacks = 0
        self.events: list[str] = []
        """What was found, and when."""
        self._best: dict[str, Share] = {}
        self._recent: dict[str, deque[Share]] = {}
        self._gradients: deque[float] = deque(maxlen=GRADIENT_STEPS)
        self._good: dict[str, Any] = {}

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {
            "rollbacks": self.rollbacks,
            "events": self.events,
            "best": {name: (share.value, share.n) for name, share in self._best.items()},
            "recent": {name: [(share.value, share.n) for share in own] for name, own in self._recent.items()},
            "gradients": list(self._gradients),
            "good": self._good,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.rollbacks, self.events, self._good = state["rollbacks"], state["events"], state["good"]
        self._best = {name: Share(*own) for name, own in state["best"].items()}
        self._recent = {
            name: deque((Share(*one) for one in own), WINDOW_STEPS) for name, own in state["recent"].items()
        }
        self._gradients.extend(state["gradients"])
        if self.mode == "rollback" and "parameters" not in self._good:
            self._good = {}  # written under "stop": a new one is taken before the first step

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """The policy that training starts from is good until one is better; a resumed run brings its own."""
        if not self._good:
            self._keep(self.probe(), state.global_step)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        """Look at the step; the same is found on every process."""
        step = state.global_step
        complaint = self._look()
        if complaint is None and step % self.probe_steps == 0:
            try:
                probe = self.probe()
            except FatalEndpointError:
                # The executor is lost: StopRun ends the run with a checkpoint after this very step.
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

    def _look(self) -> str | None:
        """What is wrong with the policy after this step; `None` if nothing is."""
        kl = self._kl()
        self._log("watch/kl", kl)
        if not kl <= MAX_KL:
            return f"the policy is {kl:.2f} nats a token from the last good one (most: {MAX_KL:g})"
        known = len(self._gradients) >= MIN_GRADIENT_STEPS
        median = statistics.median(self._gradients) if known else math.inf
        norm = self.trainer.gradient_norm
        # What is not finite is dropped before it reaches the parameters (NumericalGuard); without a gradient there was
        # nothing to learn, which is no measure for the steps after it.
        if math.isfinite(norm) and norm > 0:
            if norm > GRADIENT_FACTOR * median:
                return f"the gradient norm is {norm:.3g}, the median of the steps before {median:.3g}"
            self._gradients.append(norm)
        means = {}
        # Handed over once: further steps on the same completions say nothing new of them.
        shares, self.trainer.batch_shares = self.trainer.batch_shares, {}
        for name, share in shares.items():
            recent = self._recent.setdefault(name, deque(maxlen=WINDOW_STEPS))
            recent.append(Share(*share))
            if len(recent) == WINDOW_STEPS:
                total = sum(one.n for one in recent)
                means[name] = Share(sum(one.value * one.n for one in recent) / total, total)
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
                f"the policy collapsed at step {step}: {complaint}; it was good at step {good}. Start again from a "
                "checkpoint before that with a lower learning_rate, or set collapse_guard: rollback"
            )
            control.should_save, control.should_training_stop = False, True
            return
        self._restore()
        if self.rollbacks > MAX_ROLLBACKS:
            self.reason = (
                f"the policy collapsed at step {step}: {complaint}, and had been taken back {MAX_ROLLBACKS} times "
                f"before; the parameters are those of step {good} again. Lower learning_rate or max_grad_norm"
            )
            control.should_save = control.should_training_stop = True

    def _keep(self, probe: Probe, step: int) -> None:
        """Remember the state that is good, and how likely its completions are under it."""
        inputs = self._encode(probe.prompts[:KL_COMPLETIONS], probe.texts[:KL_COMPLETIONS])
        self._good = {"step": step, "inputs": inputs, "logps": self._logps(inputs)}
        if self.mode == "rollback":
            self._good["parameters"] = [parameter.detach().to("cpu", copy=True) for parameter in self._trainable()]
            # Before the first step there is no state to keep.
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
        # Completions of the collapsed policy are not trained on, and vLLM, which the probe has brought up to date with
        # it, gets the restored weights.
        trainer._buffered_inputs = None
        trainer._last_loaded_step = -1
        self._recent.clear()
        self.rollbacks += 1

    def _trainable(self) -> list[Tensor]:
        return [parameter for parameter in self.trainer.model.parameters() if parameter.requires_grad]

    def _encode(self, prompts: Sequence[Any], texts: Sequence[str]) -> dict[str, Tensor]:
        """Prompts padded on the left, completions on the right: `input_ids`, `attention_mask`, `completion_mask`."""
        tokenizer, device = self.trainer._tokenizer, self.trainer.accelerator.device
        asked = [tokenizer.apply_chat_template(p, add_generation_prompt=True, tokenize=False) for p in prompts]
        prompt = tokenizer(asked, padding=True, padding_side="left", add_special_tokens=False, return_tensors="pt")
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
        with torch.no_grad():
            logps: Tensor = self.trainer._get_per_token_logps_and_entropies(
                model, inputs["input_ids"], inputs["attention_mask"], length
            )[0]
        model.train(was_training)
        return logps

    def _kl(self) -> float:
        """KL(last good ‖ now) in nats a token, estimated on completions of the last good policy; a mean over them."""
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
        return {key: _to_cpu(own) for key, own in value.items()}
    return [_to_cpu(own) for own in value] if isinstance(value, list) else value
