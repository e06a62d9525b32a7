"""The operator registry, which parser, engine and prompts are passed, and the decorator that adds to it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import TypeVar

from ..dsl import MODEL, OperatorSpec, Vocabulary, builtin_vocabulary, operator_table
from ..errors import RecipeError
from ..user_modules import import_user_modules
from .base import Operator

OperatorClass = TypeVar("OperatorClass", bound=type[Operator])
MODEL_NAME = re.compile(r"[a-z][a-z0-9._-]*")
"""Lower case, unlike operators, so that a misspelt operator in `models` is not taken for a model."""


class OperatorRegistry(Mapping[str, type[Operator]]):
    """
    Operators by name, in the order in which they were added.

    Args:
        operators (`Iterable[type[Operator]]`, *optional*, defaults to `()`):
            Initial operator classes.
        models (`Sequence[str]`, *optional*, defaults to `()`):
            Models that an operator may name, as in `Review(model="strong")`.
    """

    def __init__(self, operators: Iterable[type[Operator]] = (), models: Sequence[str] = ()) -> None:
        self._classes = {cls.spec.name: cls for cls in operators}
        self.models = tuple(models)

    def __getitem__(self, name: str) -> type[Operator]:
        return self._classes[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._classes)

    def __len__(self) -> int:
        return len(self._classes)

    @property
    def vocabulary(self) -> Vocabulary:
        """Specs of the operators, for parser and static analysis."""
        return MappingProxyType(
            {name: replace(cls.spec, models=self.models) for name, cls in self._classes.items()}
            if self.models
            else {name: cls.spec for name, cls in self._classes.items()}
        )

    @property
    def descriptions(self) -> str:
        """Descriptions for the policy's system prompt: one operator a line, then how to name a model."""
        lines = [f"- {name}: {cls.description}" for name, cls in self._classes.items()]
        if self.models:
            name = next(iter(self._classes), "Custom")
            lines.append(
                f'Each operator may name the model it calls: {name}({MODEL}="{self.models[0]}"). '
                f"Models: {', '.join(self.models)}; without a name the default one."
            )
        return "\n".join(lines)

    def add(self, cls: type[Operator]) -> None:
        """
        Add an operator class.

        Raises:
            [`RecipeError`]: Another module has already defined an operator of the same name.
        """
        name = cls.spec.name
        existing = self._classes.get(name)
        # A class of the same module replaces the existing one: that is a reload, in a notebook for example.
        if existing is not None and existing.__module__ != cls.__module__:
            raise RecipeError(f"operator {name!r} is already defined in {existing.__module__}; choose another name.")
        self._classes[name] = cls

    def select(self, names: Sequence[str] | None) -> OperatorRegistry:
        """
        Restrict the registry to `names`, in their order; `None` selects all operators.

        Raises:
            [`RecipeError`]: A name is not in the registry.
        """
        for name in names or ():
            if name not in self._classes:
                raise RecipeError(f"unknown operator {name!r}. Available operators: {', '.join(self._classes)}.")
        classes = self._classes.values() if names is None else (self._classes[name] for name in names)
        return OperatorRegistry(classes, self.models)

    def with_models(self, models: Sequence[str]) -> OperatorRegistry:
        """
        The operators, each of which may name one of `models`.

        Raises:
            [`RecipeError`]: A name is that of an operator or no name of the language, or an operator has an argument
                `model` of its own.
        """
        for name in models:
            if not MODEL_NAME.fullmatch(name):
                raise RecipeError(
                    f"{name!r} is no operator, and cannot name a model. Use an operator ({', '.join(self._classes)}), "
                    "or lower-case letters, digits, '-', '_' and '.'."
                )
        for name, cls in self._classes.items():
            if models and MODEL in cls.spec.arguments:
                raise RecipeError(f"operator {name!r} has an argument {MODEL!r} of its own. Give it another name.")
        return OperatorRegistry(self._classes.values(), models)


DEFAULT_OPERATORS = OperatorRegistry()
"""The operators that ship with the package, and those that [`operator`] has added in this process."""


def operator(
    *,
    description: str,
    max_calls: int,
    gives_verdict: bool = False,
    is_ensemble: bool = False,
    arguments: Sequence[str] = (),
) -> Callable[[OperatorClass], OperatorClass]:
    """
    Class decorator that adds an operator to [`DEFAULT_OPERATORS`] under its class name.

    Args:
        description (`str`):
            Description for the policy's system prompt.
        max_calls (`int`):
            Maximum number of model calls of one run.
        gives_verdict (`bool`, *optional*, defaults to `False`):
            Whether it can be the condition of `X ? Y : Z`.
        is_ensemble (`bool`, *optional*, defaults to `False`):
            Whether it reduces several candidates to one.
        arguments (`Sequence[str]`, *optional*, defaults to `()`):
            Names of its parameters; a positional string goes to the first.

    Raises:
        [`RecipeError`]: Another module has already defined an operator of the same name.

    Example:

    ```python
    @operator(description="Translates the task to English.", max_calls=1)
    class Translate(Operator):
        async def run(self, state, arguments, call):
            text = await call.ask(f"Translate to English:\\n{state.problem.statement}")
            return state.with_candidate(Candidate(text))
    ```
    """

    def register(cls: OperatorClass) -> OperatorClass:
        cls.spec = OperatorSpec(cls.__name__, max_calls, gives_verdict, is_ensemble, tuple(arguments))
        cls.description = description
        DEFAULT_OPERATORS.add(cls)
        return cls

    return register


def builtin(cls: OperatorClass) -> OperatorClass:
    """Class decorator for the operators that ship with the package, which `configs/operators.yaml` describes."""
    cls.spec = builtin_vocabulary()[cls.__name__]
    cls.description = operator_table()[cls.__name__]["description"]
    DEFAULT_OPERATORS.add(cls)
    return cls


def load_operators(modules: Sequence[str]) -> OperatorRegistry:
    """
    Import modules that define operators with [`operator`].

    Args:
        modules (`Sequence[str]`):
            Importable module names, also of the working folder, or paths of files.

    Returns:
        [`OperatorRegistry`]: [`DEFAULT_OPERATORS`], including the operators of these modules.

    Raises:
        [`RecipeError`]: A module cannot be imported.
    """
    # Importing is enough: the decorator adds the classes of a module to the default registry.
    import_user_modules(modules, "operator")
    return DEFAULT_OPERATORS
