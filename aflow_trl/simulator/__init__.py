"""The simulated executor behind the OpenAI protocol, and a tiny policy built on the spot."""

from .app import MODEL_NAME, SimulatedApp, in_process
from .executor import default_skill, reply
from .recognize import recognize
from .server import build_server

__all__ = ["MODEL_NAME", "SimulatedApp", "build_server", "default_skill", "in_process", "recognize", "reply"]
