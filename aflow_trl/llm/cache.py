"""
Replies on disk: what was paid for once is not paid for again, by any process, across steps, runs and kills.

SQLite in WAL mode, replies as JSON with a checksum. A reply is on disk before anybody goes on with it.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import sqlite3
import threading
import time
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeAlias

from .types import Completion, Usage

logger = logging.getLogger(__name__)

DEFAULT_MAX_BYTES = 2 << 30
KEEP_SHARE = 0.9
"""Share of the most bytes that is left when replies are thrown out, least recently used first."""
PRUNE_EVERY = 1_000
"""Replies written between two looks at the size."""
BUSY_TIMEOUT_S = 30.0
MAX_BATCH = 256
_Item: TypeAlias = "tuple[str, str | None, Future[None] | None]"
"""Key, reply and who waits for it to be on disk; no reply: the key was read."""
_SCHEMA = """
CREATE TABLE IF NOT EXISTS replies
    (key TEXT PRIMARY KEY, reply TEXT NOT NULL, checksum TEXT NOT NULL, used REAL NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS replies_by_use ON replies (used);
"""
_BYTES = "LENGTH(key) + LENGTH(CAST(reply AS BLOB)) + LENGTH(checksum) + 8"
_SIZE = f"SELECT COUNT(*), COALESCE(SUM({_BYTES}), 0) FROM replies"


@dataclass(frozen=True, slots=True)
class CacheStats:
    """What a cache holds."""

    replies: int
    bytes: int
    oldest: float | None
    """Unix time of the least recent use."""
    newest: float | None


class CallCache:
    """
    Replies of an executor by the key of their call. Safe for many processes and threads.

    Args:
        path (`str` or `Path`):
            SQLite file; made at first use where there is none.
        max_bytes (`int`, *optional*, defaults to 2 GiB):
            Bytes of replies to keep.
    """

    def __init__(self, path: str | Path, max_bytes: int = DEFAULT_MAX_BYTES) -> None:
        self.path = Path(path)
        self.max_bytes = max_bytes
        self._local = threading.local()
        self._queue: SimpleQueue[_Item | None] = SimpleQueue()
        self._writer: threading.Thread | None = None
        self._start_lock = threading.Lock()
        self._written = 0
        self._opened = False

    def get(self, key: str) -> Completion | None:
        """The reply of a call; `None` if there is none, or none that is whole."""
        try:
            row = self._connection().execute("SELECT reply, checksum FROM replies WHERE key = ?", (key,)).fetchone()
            completion = None if row is None else _read(*row)
        except sqlite3.Error as error:
            logger.warning("the cache %s could not be read: %s", self.path, error)
            return None
        if completion is not None:
            self._queue.put((key, None, None))
            self._ensure_writer()
        elif row is not None:
            logger.warning("a damaged reply in the cache %s is asked for again", self.path)
        return completion

    async def put(self, key: str, completion: Completion) -> None:
        """Keep a reply, if it is a good one; it is on disk when this returns."""
        if completion.truncated or completion.refused:
            return
        done: Future[None] = Future()
        self._queue.put((key, _write(completion), done))
        self._ensure_writer()
        await asyncio.wrap_future(done)

    def stats(self) -> CacheStats:
        """Number and bytes of replies, and when they were last used."""
        connection = self._connection()
        count, size = connection.execute(_SIZE).fetchone()
        oldest, newest = connection.execute("SELECT MIN(used), MAX(used) FROM replies").fetchone()
        return CacheStats(count, size, oldest, newest)

    def prune(self, max_bytes: int | None = None) -> int:
        """
        Throw out the least recently used replies until the rest fits.

        Args:
            max_bytes (`int`, *optional*):
                Bytes to keep. Defaults to the cache's own limit.

        Returns:
            `int`: Replies thrown out.
        """
        limit = self.max_bytes if max_bytes is None else max_bytes
        connection = self._connection()
        _, size = connection.execute(_SIZE).fetchone()
        if size <= limit:
            return 0
        target, gone = limit * KEEP_SHARE if max_bytes is None else limit, []
        for key, length in connection.execute(f"SELECT key, {_BYTES} FROM replies ORDER BY used"):
            if size <= target:
                break
            gone.append((key,))
            size -= length
        with connection:
            connection.executemany("DELETE FROM replies WHERE key = ?", gone)
        return len(gone)

    def verify(self) -> int:
        """Read every reply and remove the damaged ones; returns how many there were."""
        connection = self._connection()
        rows = connection.execute("SELECT key, reply, checksum FROM replies")
        damaged = [(key,) for key, reply, checksum in rows if _read(reply, checksum) is None]
        with connection:
            connection.executemany("DELETE FROM replies WHERE key = ?", damaged)
        return len(damaged)

    def close(self) -> None:
        """End the writer; a later `put` starts it again."""
        with self._start_lock:
            if self._writer is not None:
                self._queue.put(None)
                self._writer.join()
                self._writer = None

    def _connection(self) -> sqlite3.Connection:
        if not self._opened:
            with self._start_lock:
                if not self._opened:
                    self.path.parent.mkdir(parents=True, exist_ok=True)
                    self._open_or_set_aside()
                    self._opened = True
        return self._own_connection()

    def _own_connection(self) -> sqlite3.Connection:
        """The calling thread's connection."""
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = sqlite3.connect(self.path, timeout=BUSY_TIMEOUT_S)
            connection.execute("PRAGMA journal_mode = WAL")
            # Survives the death of the process; only the death of the machine can lose the last replies.
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.executescript(_SCHEMA)
        return connection

    def _open_or_set_aside(self) -> None:
        try:
            self._own_connection().execute("SELECT key FROM replies LIMIT 1").fetchone()
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):
                raise
            aside = self.path.with_suffix(f".damaged-{int(time.time())}")
            logger.warning("%s is no cache (%s); it is kept as %s and a new one is begun", self.path, error, aside)
            del self._local.connection
            self.path.rename(aside)
            for suffix in ("-wal", "-shm"):
                Path(f"{self.path}{suffix}").unlink(missing_ok=True)
            self._own_connection()

    def _ensure_writer(self) -> None:
        with self._start_lock:
            if self._writer is None or not self._writer.is_alive():
                self._writer = threading.Thread(target=self._write_all, name="aflow-cache", daemon=True)
                self._writer.start()

    def _write_all(self) -> None:
        """Write what waits, many replies a transaction, until told to end."""
        while (first := self._queue.get()) is not None:
            batch, ending = [first], False
            while len(batch) < MAX_BATCH and not self._queue.empty():
                item = self._queue.get()
                if item is None:
                    ending = True
                    break
                batch.append(item)
            self._write_batch(batch)
            if ending:
                return

    def _write_batch(self, batch: list[_Item]) -> None:
        now = time.time()
        new = [(key, reply, _checksum(reply), now) for key, reply, _ in batch if reply is not None]
        try:
            with self._connection() as connection:
                connection.executemany("INSERT OR REPLACE INTO replies VALUES (?, ?, ?, ?)", new)
                connection.executemany(
                    "UPDATE replies SET used = ? WHERE key = ?",
                    [(now, key) for key, reply, _ in batch if reply is None],
                )
            self._written += len(new)
            if self._written >= PRUNE_EVERY:
                self._written = 0
                self.prune()
        except sqlite3.Error as error:
            # The reply itself is good: the run goes on, and pays again if it has to ask again.
            logger.warning("the cache %s could not be written: %s", self.path, error)
        for _, _, done in batch:
            if done is not None and done.set_running_or_notify_cancel():
                done.set_result(None)


def call_key(*parts: Any) -> str:
    """Digest of everything a reply depends on."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=True)
    return hashlib.blake2b(text.encode(), digest_size=20).hexdigest()


def _write(completion: Completion) -> str:
    fields = {"text": completion.text, "finish_reason": completion.finish_reason, "usage": asdict(completion.usage)}
    return json.dumps(fields, ensure_ascii=True)


def _read(reply: str, checksum: str) -> Completion | None:
    if not isinstance(reply, str) or _checksum(reply) != checksum:
        return None
    fields = json.loads(reply)
    return Completion(fields["text"], fields["finish_reason"], Usage(**fields["usage"]), attempts=0, cached=True)


def _checksum(reply: str) -> str:
    return hashlib.blake2b(reply.encode(), digest_size=8).hexdigest()
