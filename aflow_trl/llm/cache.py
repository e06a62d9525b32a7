"""
Disk cache of replies: a call that has been paid for is not paid for again, across steps, runs, processes and kills.

SQLite in WAL mode, with replies as JSON beside a checksum. A reply is on disk before a workflow continues with it.
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
from typing import NamedTuple

from .types import Completion, Usage

logger = logging.getLogger(__name__)

DEFAULT_MAX_BYTES = 2 << 30
PRUNE_TO_SHARE = 0.9
"""Share of the maximum size that remains after pruning, so that not every write has to prune again."""
PRUNE_EVERY = 1_000
"""Number of writes between two checks of the size, which scan the whole table."""
BUSY_TIMEOUT_S = 30.0
"""How long to wait for a lock that another process holds."""
MAX_BATCH = 256
"""Maximum number of replies in a transaction; one transaction a reply would be bound by the disk's syncs."""

# WITHOUT ROWID stores a reply next to its key, which saves the look-up of a row id.
_SCHEMA = """
CREATE TABLE IF NOT EXISTS replies
    (key TEXT PRIMARY KEY, reply TEXT NOT NULL, checksum TEXT NOT NULL, used REAL NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS replies_by_use ON replies (used);
"""
_BYTES = "LENGTH(key) + LENGTH(CAST(reply AS BLOB)) + LENGTH(checksum) + 8"
_SIZE = f"SELECT COUNT(*), COALESCE(SUM({_BYTES}), 0) FROM replies"


class _Write(NamedTuple):
    """A job of the writer thread."""

    key: str
    reply: str | None
    """Reply to store; `None` records that the stored one was used."""
    done: Future[None] | None
    """Resolved once the reply is on disk."""


@dataclass(frozen=True, slots=True)
class CacheStats:
    """Size and age of a cache."""

    replies: int
    bytes: int
    oldest: float | None
    """Unix time of the least recent use; `None` if the cache is empty."""
    newest: float | None
    """Unix time of the most recent use."""


class CallCache:
    """
    Replies of an executor by the key of their call. Safe to use from several processes and threads.

    Args:
        path (`str` or `Path`):
            SQLite file; created at first use.
        max_bytes (`int`, *optional*, defaults to 2 GiB):
            Maximum size of the replies; beyond it, the least recently used ones are evicted.
    """

    def __init__(self, path: str | Path, max_bytes: int = DEFAULT_MAX_BYTES) -> None:
        self.path = Path(path)
        self.max_bytes = max_bytes
        # SQLite connections belong to the thread that opened them.
        self._local = threading.local()
        # Writes go through one thread: SQLite has a single writer, and the event loop must not wait for the disk.
        self._queue: SimpleQueue[_Write | None] = SimpleQueue()
        self._writer: threading.Thread | None = None
        self._opened = False
        self._unchecked_writes = 0
        # Two locks, because `close` holds that of the writer while the writer may still have to open the file.
        self._writer_lock = threading.Lock()
        self._open_lock = threading.Lock()

    def get(self, key: str) -> Completion | None:
        """The stored reply of a call; `None` if there is none or it is damaged."""
        try:
            row = self._connection().execute("SELECT reply, checksum FROM replies WHERE key = ?", (key,)).fetchone()
            completion = None if row is None else _deserialize(*row)
        except sqlite3.Error as error:
            logger.warning("cannot read the cache %s (%s); the call is sent", self.path, error)
            return None
        if completion is not None:
            self._enqueue(_Write(key, None, None))
        elif row is not None:
            logger.warning("a reply in the cache %s is damaged; the call is sent again", self.path)
        return completion

    async def put(self, key: str, completion: Completion) -> None:
        """Store a reply unless it is truncated or refused; it is on disk when this returns."""
        if completion.truncated or completion.refused:
            return
        done: Future[None] = Future()
        self._enqueue(_Write(key, _serialize(completion), done))
        await asyncio.wrap_future(done)

    def stats(self) -> CacheStats:
        """Number and size of the replies, and when they were last used."""
        connection = self._connection()
        count, size = connection.execute(_SIZE).fetchone()
        oldest, newest = connection.execute("SELECT MIN(used), MAX(used) FROM replies").fetchone()
        return CacheStats(count, size, oldest, newest)

    def prune(self, max_bytes: int | None = None) -> int:
        """
        Evict the least recently used replies until the remainder fits.

        Args:
            max_bytes (`int`, *optional*):
                Size to prune to. Defaults to the limit of the cache.

        Returns:
            `int`: Number of replies evicted.
        """
        limit = self.max_bytes if max_bytes is None else max_bytes
        connection = self._connection()
        _, size = connection.execute(_SIZE).fetchone()
        if size <= limit:
            return 0
        target, evicted = limit * PRUNE_TO_SHARE if max_bytes is None else limit, []
        for key, length in connection.execute(f"SELECT key, {_BYTES} FROM replies ORDER BY used"):
            if size <= target:
                break
            evicted.append((key,))
            size -= length
        with connection:
            connection.executemany("DELETE FROM replies WHERE key = ?", evicted)
        return len(evicted)

    def verify(self) -> int:
        """Read every reply and delete the damaged ones; returns how many there were."""
        connection = self._connection()
        rows = connection.execute("SELECT key, reply, checksum FROM replies")
        damaged = [(key,) for key, reply, checksum in rows if _deserialize(reply, checksum) is None]
        with connection:
            connection.executemany("DELETE FROM replies WHERE key = ?", damaged)
        return len(damaged)

    def close(self) -> None:
        """Complete the pending writes and stop the writer thread; a later `put` starts it again."""
        with self._writer_lock:
            if self._writer is not None:
                self._queue.put(None)
                self._writer.join()
                self._writer = None

    def _connection(self) -> sqlite3.Connection:
        if not self._opened:
            with self._open_lock:
                if not self._opened:
                    self.path.parent.mkdir(parents=True, exist_ok=True)
                    self._open_or_set_aside()
                    self._opened = True
        return self._thread_connection()

    def _thread_connection(self) -> sqlite3.Connection:
        """Connection of the calling thread."""
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            if not self.path.exists():
                # Readable by its owner only: it holds prompts and replies. SQLite's side files take over the mode.
                self.path.touch(mode=0o600)
            connection = self._local.connection = sqlite3.connect(self.path, timeout=BUSY_TIMEOUT_S)
            connection.execute("PRAGMA journal_mode = WAL")
            # Survives the death of the process; only the death of the machine can lose the last replies.
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.executescript(_SCHEMA)
        return connection

    def _open_or_set_aside(self) -> None:
        try:
            self._thread_connection().execute("SELECT key FROM replies LIMIT 1").fetchone()
        except sqlite3.DatabaseError as error:
            # Operational errors (a lock, a full disk) say nothing about the content of the file.
            if isinstance(error, sqlite3.OperationalError):
                raise
            damaged = self.path.with_suffix(f".damaged-{int(time.time())}")
            logger.warning("%s is not a cache (%s); moved to %s, starting a new one", self.path, error, damaged)
            del self._local.connection
            self.path.rename(damaged)
            # Left behind, the journal of the old file would be replayed into the new one.
            for suffix in ("-wal", "-shm"):
                Path(f"{self.path}{suffix}").unlink(missing_ok=True)
            self._thread_connection()

    def _enqueue(self, write: _Write) -> None:
        self._queue.put(write)
        with self._writer_lock:
            if self._writer is None or not self._writer.is_alive():
                self._writer = threading.Thread(target=self._run_writer, name="aflow-cache", daemon=True)
                self._writer.start()

    def _run_writer(self) -> None:
        """Write what is queued, many replies in a transaction, until a `None` asks to stop."""
        while (first := self._queue.get()) is not None:
            batch, stopping = [first], False
            while len(batch) < MAX_BATCH and not self._queue.empty():
                write = self._queue.get()
                if write is None:
                    stopping = True
                    break
                batch.append(write)
            self._write_batch(batch)
            if stopping:
                return

    def _write_batch(self, batch: list[_Write]) -> None:
        now = time.time()
        rows = [(write.key, write.reply, _checksum(write.reply), now) for write in batch if write.reply is not None]
        try:
            with self._connection() as connection:
                connection.executemany("INSERT OR REPLACE INTO replies VALUES (?, ?, ?, ?)", rows)
                connection.executemany(
                    "UPDATE replies SET used = ? WHERE key = ?",
                    [(now, write.key) for write in batch if write.reply is None],
                )
            self._unchecked_writes += len(rows)
            if self._unchecked_writes >= PRUNE_EVERY:
                self._unchecked_writes = 0
                self.prune()
        except (sqlite3.Error, OSError) as error:
            # The reply itself is good: the run continues, and pays again if it needs the reply again.
            logger.warning("cannot write the cache %s: %s", self.path, error)
        for write in batch:
            if write.done is not None and write.done.set_running_or_notify_cancel():
                write.done.set_result(None)


def call_key(*parts: object) -> str:
    """Digest of everything that a reply depends on."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=True)
    return hashlib.blake2b(text.encode(), digest_size=20).hexdigest()


def _serialize(completion: Completion) -> str:
    fields = {"text": completion.text, "finish_reason": completion.finish_reason, "usage": asdict(completion.usage)}
    if completion.thinking:
        fields["thinking"] = completion.thinking
    return json.dumps(fields, ensure_ascii=True)


def _deserialize(reply: str, checksum: str) -> Completion | None:
    # SQLite columns are untyped: a damaged reply may come back as bytes.
    if not isinstance(reply, str) or _checksum(reply) != checksum:
        return None
    try:
        fields = json.loads(reply)
        usage, thinking = Usage(**fields["usage"]), str(fields.get("thinking", ""))
        return Completion(fields["text"], fields["finish_reason"], usage, attempts=0, cached=True, thinking=thinking)
    except (KeyError, TypeError, ValueError):  # written by another version
        return None


def _checksum(reply: str) -> str:
    return hashlib.blake2b(reply.encode(), digest_size=8).hexdigest()
