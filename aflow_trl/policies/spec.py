"""Everything needed to ask a policy the way it was trained: saved with a run, and read back wherever it is used."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from transformers.utils import cached_file

from ..dsl import CLOSING_TAG
from ..storage import write_json

SPEC_FILE = "policy.json"
"""File of the specification in the output folder of a run, and in the repository that it is pushed to."""


@dataclass(frozen=True, slots=True)
class ModelOptions:
    """How a base model is loaded, as in [`~trl.ModelConfig`]."""

    revision: str | None = None
    dtype: str | None = None
    attn_implementation: str | None = None
    trust_remote_code: bool = False
    load_in_8bit: bool = False
    load_in_4bit: bool = False
    bnb_4bit_quant_type: str = "nf4"
    use_bnb_nested_quant: bool = False


@dataclass(frozen=True, slots=True)
class SamplingOptions:
    """How completions are sampled. The defaults are plain sampling, which is also TRL's default in training."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float | None = None
    repetition_penalty: float = 1.0
    max_completion_length: int = 256
    """Maximum number of new tokens."""
    stop_strings: tuple[str, ...] = (CLOSING_TAG,)
    chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    generation_kwargs: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of `generate`."""


@dataclass(frozen=True, slots=True)
class PolicySpec:
    """Prompt, operators, sampling and loading of a policy."""

    policy_prompt: str = "full"
    operators: tuple[str, ...] | None = None
    """Operators that its prompt offers; `None` for all."""
    operator_modules: tuple[str, ...] = ()
    sampling: SamplingOptions = SamplingOptions()
    model: ModelOptions = ModelOptions()
    budgets: tuple[str, ...] = ()
    """Budgets that it was trained for, the smallest first."""

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> PolicySpec:
        """The specification that [`PolicySpec.to_json`] wrote; keys of other versions are ignored."""
        sampling = _known(SamplingOptions, content.get("sampling") or {})
        if "stop_strings" in sampling:
            sampling["stop_strings"] = tuple(sampling["stop_strings"])
        operators = content.get("operators")
        return cls(
            content.get("policy_prompt", "full"),
            None if operators is None else tuple(operators),
            tuple(content.get("operator_modules") or ()),
            SamplingOptions(**sampling),
            ModelOptions(**_known(ModelOptions, content.get("model") or {})),
            tuple(content.get("budgets") or ()),
        )


def write_spec(spec: PolicySpec, folder: Path) -> None:
    """Write the specification into the output folder of a run, for every checkpoint in it."""
    write_json(folder / SPEC_FILE, spec.to_json())


def read_spec(model: str) -> PolicySpec:
    """
    Specification of the policy that a run, or a checkpoint inside a run, holds.

    Args:
        model (`str`):
            Output folder of a run, a checkpoint in it, any other folder, or an id of the Hub.

    Returns:
        [`PolicySpec`]: As the run wrote it when it started; the defaults where there is none.
    """
    folder = Path(model)
    candidates = [folder / SPEC_FILE, folder.parent / SPEC_FILE]
    if not folder.is_dir():
        candidates = [cached] if (cached := _from_hub(model)) is not None else []
    for candidate in candidates:
        if candidate.is_file():
            return PolicySpec.from_json(json.loads(candidate.read_text(encoding="utf-8")))
    return PolicySpec()


def _from_hub(model: str) -> Path | None:
    """The specification in a repository of the Hub; whether there is such a repository is for the loader to say."""
    kinds = ("missing_entries", "gated_repo", "connection_errors")
    try:
        cached = cached_file(model, SPEC_FILE, **{f"_raise_exceptions_for_{kind}": False for kind in kinds})
    except OSError:
        return None
    return None if cached is None else Path(cached)


def _known(cls: type, content: Mapping[str, Any]) -> dict[str, Any]:
    names = {item.name for item in fields(cls)}
    return {name: value for name, value in content.items() if name in names}
