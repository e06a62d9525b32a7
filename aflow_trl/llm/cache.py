"""
Disk cache of replies: a call that has been paid for is not paid for again, across steps, runs, processes and kills.

SQLite in WAL mode, with replies as JSON beside a checksum. A reply is on disk before a workflow continues with it. Who
is about to make a call takes a lease on it, so that others, in this process or another one, wait for the reply.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import itertools
import json
import logging
import os
import socket
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import NamedTuple

import psutil

from .types import Completion, Usage

logger = logging.getLogger(__name__)

DEFAULT_MAX_BYTES = 2 << 30
PRUNE_TO_SHARE = 0.9
"""Share of the maximum size that remains after pruning, so that not every write has to prune again."""
PRUNE_EVERY = 1_000
"""Number of writes between two checks of the size, which scan the whole table."""
BUSY_TIMEOUT_S = 30.0
"""How long to wait for a lock that another process holds."""
_NUMBERS = itertools.count()
"""Numbers of the leases of this process."""
LEASE_POLL_S = 0.05
"""Pause between two looks for a reply that another caller is about to get."""
MAX_BATCH = 256
"""Maximum number of changes in a transaction; one transaction a reply would be bound by the disk's syncs."""

# WITHOUT ROWID stores a reply next to its key, which saves the look-up of a row id.
_SCHEMA = """
CREATE TABLE IF NOT EXISTS replies
    (key TEXT PRIMARY KEY, reply TEXT NOT NULL, checksum TEXT NOT NULL, used REAL NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS replies_by_use ON replies (used);
CREATE TABLE IF NOT EXISTS leases (key TEXT PRIMARY KEY, owner TEXT NOT NULL, until REAL NOT NULL) WITHOUT ROWID;
"""
_STORE = "INSERT OR REPLACE INTO replies VALUES (?, ?, ?, ?)"
_TOUCH = "UPDATE replies SET used = ? WHERE key = ?"
# Changes a row only if there is none, or its holder has not released it in time.
_ACQUIRE = (
    "INSERT INTO leases VALUES (:key, :owner, :until) ON CONFLICT (key) DO UPDATE "
    "SET owner = :owner, until = :until WHERE until < :now OR owner = :dead"
)
_RELEASE = "DELETE FROM leases WHERE key = ? AND owner = ?"
_BYTES = "LENGTH(key) + LENGTH(CAST(reply AS BLOB)) + LENGTH(checksum) + 8"
_SIZE = f"SELECT COUNT(*), COALESCE(SUM({_BYTES}), 0) FROM replies"


class _Write(NamedTuple):
    """A statement for the writer thread."""

    statement: str
    parameters: Sequence[object] | Mapping[str, object]
    done: Future[int] | None
    """Resolved once the change is on disk, to the number of rows; `-1` after an error."""


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
            self._enqueue(_Write(_TOUCH, (time.time(), key), None))
        elif row is not None:
            logger.warning("a reply in the cache %s is damaged; the call is sent again", self.path)
        return completion

    async def put(self, key: str, completion: Completion) -> None:
        """Store a reply unless it is truncated or refused; it is on disk when this returns."""
        if completion.truncated or completion.refused:
            return
        reply = _serialize(completion)
        await self._written(_STORE, (key, reply, _checksum(reply), time.time()))

    @contextlib.asynccontextmanager
    async def lease(self, key: str, seconds: float) -> AsyncIterator[Completion | None]:
        """
        The reply of a call, or the right to make it.

        While another caller holds the lease of the call, it waits for the reply. If the call yields none that is
        stored, everyone who waited makes it.

        Args:
            key (`str`):
                Key of the call.
            seconds (`float`):
                Time after which the lease of a holder on another machine ends; on this one, it ends with the process.

        Yields:
            [`Completion`], *optional*: The stored reply; `None` if the caller has to make the call.
        """
        stored, leased = self.get(key), False
        owner = f"{_this_process()} {next(_NUMBERS)}"
        try:
            if stored is None:
                leased = await self._acquire(key, owner, seconds)
                stored = self.get(key)  # another process may have completed the call meanwhile
            while stored is None and not leased and (holder := self._holder(key)) is not None:
                if _is_alive(holder):
                    await asyncio.sleep(LEASE_POLL_S)
                else:
                    leased = await self._acquire(key, owner, seconds, dead=holder)
                stored = self.get(key)
            yield stored
        finally:
            # Also if it was cancelled while it acquired the lease.
            if leased or stored is None:
                self._enqueue(_Write(_RELEASE, (key, owner), None))

    async def _acquire(self, key: str, owner: str, seconds: float, dead: str = "") -> bool:
        now = time.time()
        row = {"key": key, "owner": owner, "until": now + seconds, "now": now, "dead": dead}
        return await self._written(_ACQUIRE, row) > 0

    def _holder(self, key: str) -> str | None:
        """Who holds the lease of a call; `None` if nobody does."""
        try:
            query = "SELECT owner FROM leases WHERE key = ? AND until >= ?"
            row = self._connection().execute(query, (key, time.time())).fetchone()
        except sqlite3.Error:  # `get` has warned
            return None
        return None if row is None else str(row[0])

    async def _written(self, statement: str, parameters: Sequence[object] | Mapping[str, object]) -> int:
        done: Future[int] = Future()
        self._enqueue(_Write(statement, parameters, done))
        return await asyncio.wrap_future(done)

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
        try:
            with self._connection() as connection:
                counts = [connection.execute(write.statement, write.parameters).rowcount for write in batch]
            self._unchecked_writes += sum(write.statement is _STORE for write in batch)
            if self._unchecked_writes >= PRUNE_EVERY:
                self._unchecked_writes = 0
                self.prune()
        except (sqlite3.Error, OSError) as error:
            # The reply itself is good: the run continues, and pays again if it needs the reply again.
            logger.warning("cannot write the cache %s: %s", self.path, error)
            counts = [-1] * len(batch)
        for write, count in zip(batch, counts, strict=True):
            if write.done is not None and write.done.set_running_or_notify_cancel():
                write.done.set_result(count)


@functools.cache
def _process_of(pid: int) -> str:
    # The time of its start, because numbers of processes are used again.
    return f"{socket.gethostname()} {pid} {psutil.Process(pid).create_time():.2f}"


def _this_process() -> str:
    return _process_of(os.getpid())


def _is_alive(owner: str) -> bool:
    """Whether the process that holds a lease runs; one on another machine is taken to."""
    process = owner.rpartition(" ")[0]
    host, pid, _ = process.rsplit(" ", 2)
    if host != socket.gethostname():
        return True
    try:
        return _process_of.__wrapped__(int(pid)) == process
    except (psutil.Error, ValueError):
        return False


def is_cache(path: Path) -> bool:
    """Whether a file is a cache of replies; it is only read."""
    try:
        with contextlib.closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as connection:
            connection.execute("SELECT key, reply, checksum, used FROM replies LIMIT 1").fetchone()
    except sqlite3.Error:
        return False
    return True


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
