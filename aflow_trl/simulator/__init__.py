"""A simulated executor that speaks the OpenAI chat protocol, for runs without a key, a GPU or a network."""

from .app import MODEL_NAME, SimulatedApp, in_process, simulated_client
from .executor import default_skill, knows, reply
from .recognize import recognize
from .server import build_server

__all__ = [
    "MODEL_NAME",
    "SimulatedApp",
    "build_server",
    "default_skill",
    "in_process",
    "knows",
    "recognize",
    "reply",
    "simulated_client",
]
