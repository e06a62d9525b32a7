"""HTTP server of the simulated executor."""

from __future__ import annotations

import json

from aiohttp import web

from .app import MODEL_NAME, SimulatedApp
from .executor import default_skill


def build_server(app: SimulatedApp) -> web.Application:
    """Build an aiohttp application with the routes `/v1/chat/completions` and `/v1/models`."""

    async def chat(request: web.Request) -> web.Response:
        try:
            payload = json.loads(await request.read())
        except ValueError:
            return web.json_response({"error": {"message": "the body is not JSON"}}, status=400)
        status, body = await app.respond(payload)
        return web.json_response(body, status=status)

    async def models(_: web.Request) -> web.Response:
        names = (MODEL_NAME, *default_skill()["models"])
        return web.json_response({"object": "list", "data": [{"id": name, "object": "model"} for name in names]})

    server = web.Application()
    server.router.add_post("/v1/chat/completions", chat)
    server.router.add_get("/v1/models", models)
    return server
