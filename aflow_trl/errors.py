"""
The exception tree. Every error this package raises on purpose derives from [`AflowError`].

    AflowError
    ├── RecipeError                a recipe, a flag or a file the user gave is wrong
    │   └── DataError              a dataset row is wrong
    ├── DSLError                   text is not a workflow (position, label, caret)
    ├── EndpointError              the executor's endpoint did not deliver
    │   ├── UnavailableError       transport, rate limit, 5xx, bad payload: the rollout is unscored
    │   ├── RejectedRequestError   the request itself was refused (context length, content policy): scored as it stands
    │   └── FatalEndpointError     authentication, quota, unknown model: the run stops
    │       └── RunBudgetError     the USD of the run are spent: the run stops
    ├── BudgetExceededError        a workflow spent more than its calls or tokens
    ├── SandboxUnavailableError    no sandbox can be had on this machine, or it broke
    ├── ScorerError                a scorer broke: the rollout is unscored
    └── RunStoppedError            the run ended early, with a checkpoint
"""


class AflowError(Exception):
    """Base class of every error raised on purpose by this package."""


class RecipeError(AflowError, ValueError):
    """A recipe, a command-line flag or a file named by one of them is wrong. The message says what to do."""


class DataError(RecipeError):
    """A dataset row is wrong. The message names file, line and field."""


class DSLError(AflowError, ValueError):
    """
    Text is not a valid workflow.

    Args:
        message (`str`):
            What is wrong, in one sentence.
        source (`str`):
            Text that was parsed.
        line (`int`):
            Line of the error, from 1.
        column (`int`):
            Column of the error, from 1.
        label (`str`):
            Machine-readable kind of error, such as `"unknown_operator"`.
        expected (`tuple[str, ...]`, *optional*, defaults to `()`):
            What would have been accepted at this place.
    """

    def __init__(
        self, message: str, *, source: str, line: int, column: int, label: str, expected: tuple[str, ...] = ()
    ) -> None:
        self.message = message
        self.source = source
        self.line = line
        self.column = column
        self.label = label
        self.expected = expected
        super().__init__(message)

    def __str__(self) -> str:
        lines = self.source.splitlines() or [""]
        text = lines[self.line - 1] if self.line <= len(lines) else ""
        caret = " " * (self.column - 1) + "^"
        expected = f"\nexpected {' or '.join(self.expected)}" if self.expected else ""
        return f"line {self.line}, column {self.column}: {self.message} [{self.label}]\n{text}\n{caret}{expected}"


class EndpointError(AflowError):
    """The executor's endpoint did not deliver a usable reply."""


class UnavailableError(EndpointError):
    """Infrastructure trouble: transport, rate limit, server error, bad payload. The rollout stays unscored."""


class RejectedRequestError(EndpointError):
    """The endpoint refused this very request (context length, content policy). The workflow is scored as it stands."""


class FatalEndpointError(EndpointError):
    """No later call can succeed either (authentication, quota, unknown model). The run has to stop."""


class RunBudgetError(FatalEndpointError):
    """The run has spent its USD. It stops with a checkpoint."""


class BudgetExceededError(AflowError):
    """A workflow spent more model calls or tokens than its budget."""


class SandboxUnavailableError(AflowError):
    """The sandbox cannot be started on this machine, or it broke. Never the fault of the program inside."""


class ScorerError(AflowError):
    """A scorer broke or ran out of time. The rollout stays unscored."""


class RunStoppedError(AflowError):
    """The run ended before its last step; a checkpoint was written."""
