"""A chat endpoint in a thread of its own, for commands that run in the thread of the test."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable, Iterator

from aiohttp import web


@contextlib.contextmanager
def chat_endpoint(chat: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> Iterator[int]:
    """Serve `POST /v1/chat/completions` with a handler; yields the port."""
    loop = asyncio.new_event_loop()

    async def serve() -> int:
        server = web.Application()
        server.router.add_post("/v1/chat/completions", chat)
        runner = web.AppRunner(server)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        return int(site._server.sockets[0].getsockname()[1])

    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield asyncio.run_coroutine_threadsafe(serve(), loop).result()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
