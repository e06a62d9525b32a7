"""`aflow-trl simulate`: serve the simulated executor over HTTP."""

from __future__ import annotations

import argparse

from ..errors import RecipeError
from ..simulator import SimulatedApp
from .options import Commands

DEFAULT_PORT = 8377


def add_parser(commands: Commands[argparse.ArgumentParser]) -> None:
    """Add the parser of the command."""
    parser = commands.add_parser(
        "simulate",
        help="serve the simulated executor over HTTP",
        description="Serve the simulated executor behind the OpenAI chat protocol. It is a simulation, not a model.",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    parser.add_argument(
        "--port", type=int, default=DEFAULT_PORT, help=f"port; 0 for a free one (default: {DEFAULT_PORT})"
    )
    parser.add_argument(
        "--latency", type=float, default=0.0, metavar="SECONDS", help="latency of every reply (default: 0)"
    )
    parser.set_defaults(command=run)


def run(options: argparse.Namespace) -> None:
    """Serve until interrupted."""
    import socket

    from aiohttp import web

    from ..simulator.server import build_server

    if not 0 <= options.port < 65_536:
        raise RecipeError(f"--port must be between 0 and 65535, got {options.port}.")
    # Bound here and not by aiohttp, so that a taken port is a user error and port 0 can be printed.
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((options.host, options.port))
        # Before the address is printed: whoever waits for that line may connect at once.
        listener.listen()
    except OSError as error:
        raise RecipeError(f"cannot listen on {options.host}:{options.port}: {error}. Choose another --port.") from None
    port = listener.getsockname()[1]
    print(f"simulated executor on http://{options.host}:{port}/v1 (a simulation, not a model)", flush=True)
    web.run_app(build_server(SimulatedApp(latency_s=options.latency)), sock=listener, print=lambda *_: None)
