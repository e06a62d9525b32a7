"""
Every sandbox backend passes the same corpus of programs: they end as expected and leave nothing behind.

A backend is a tier and a user. The corpus runs in a separate process for each of them, see `corpus_script.py`.
"""

from __future__ import annotations

import asyncio
import gc
import hashlib
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

import aflow_trl
import corpus
from aflow_trl.errors import SandboxUnavailableError
from aflow_trl.sandbox import Layers, Status, Tier, allow_weak_sandbox, client, filters, fork_server, run, run_tests
from aflow_trl.sandbox.client import choose_layers
from corpus_script import CAP_BYTES, MAX_GAP_S, SECRET

TESTS = Path(__file__).parent
OTHER_UID = 54_321


@dataclass(frozen=True)
class Backend:
    """Interpreter, user and tier that the corpus runs with."""

    name: str
    tier: str
    landlock: int = 99
    """Version of Landlock's ABI to use at most."""
    tmpfs: bool = True
    other_interpreter: bool = False
    """Whether to use a copy of the interpreter below a home folder, which every user can read."""
    uid: int | None = None


BACKENDS = [
    Backend("A", "A"),
    Backend("A, measured scratch, Landlock 2", "A", landlock=2, tmpfs=False),
    Backend("A, not root, interpreter under a home folder", "A", other_interpreter=True, uid=OTHER_UID),
    Backend("A, not root, measured scratch, Landlock 1", "A", 1, tmpfs=False, other_interpreter=True, uid=OTHER_UID),
    Backend("A, separate user id, Landlock 3", "A", landlock=3, other_interpreter=True),
    Backend("B", "B", landlock=0, other_interpreter=True),
]


def fingerprint(folder: Path) -> str:
    """Digest of names, sizes, modes, owners, times and contents of everything in a folder."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        stat = path.lstat()
        digest.update(f"{path} {stat.st_size} {stat.st_mode} {stat.st_uid} {stat.st_mtime_ns}".encode())
        digest.update(path.read_bytes() if path.is_file() else b"")
    return digest.hexdigest()


def library_state() -> tuple[int, int]:
    """Number and latest modification time of the files of site-packages and of part of the standard library."""
    folders = [Path(sysconfig.get_paths()["purelib"]), Path(json.__file__).parent]
    files = [f.lstat().st_mtime_ns for folder in folders for f in folder.glob("*")]
    files += [f.lstat().st_mtime_ns for f in (Path(json.__file__).parent / "__pycache__").glob("*")]
    return len(files), max(files)


@pytest.fixture(scope="session")
def public_folder() -> Iterator[Path]:
    """A temporary folder that every user can enter. pytest's own are private, and each pytest that starts resets that."""
    with tempfile.TemporaryDirectory(prefix="aflow-corpus-") as name:
        Path(name).chmod(0o711)
        yield Path(name)


@pytest.fixture(scope="session")
def other_interpreter(public_folder: Path) -> Path:
    """A home folder with a copy of the interpreter, its library and the sandbox."""
    if os.geteuid() != 0:
        pytest.skip("needs root to switch users")
    base = Path(sys.base_prefix)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    home = public_folder / "home"
    ignored = shutil.ignore_patterns(
        "site-packages", "dist-packages", "test", "tests", "idlelib", "config-*", "lib2to3", "*.opt-*.pyc"
    )
    shutil.copytree(base / "lib" / version, home / "lib" / version, ignore=ignored)
    (home / "lib" / version / "site-packages").mkdir()
    for library in (base / "lib").glob("libpython*.so*"):
        shutil.copy(library, home / "lib" / library.name)
    (home / "bin").mkdir()
    shutil.copy(Path(sys.executable).resolve(), home / "bin" / "python")
    package = home / "code" / "aflow_trl"
    shutil.copytree(Path(aflow_trl.__file__).parent / "sandbox", package / "sandbox")
    for name in ("__init__.py", "errors.py"):
        shutil.copy(Path(aflow_trl.__file__).parent / name, package / name)
    for name in ("corpus.py", "corpus_script.py"):
        shutil.copy(TESTS / name, home / "code" / name)
    (home / "private").write_text("tests of the benchmark")
    home.chmod(0o755)
    return home


@pytest.fixture(scope="session", params=BACKENDS, ids=[backend.name for backend in BACKENDS])
def outcome(request: pytest.FixtureRequest, public_folder: Path) -> dict[str, Any]:
    """Results of the corpus on one backend."""
    backend: Backend = request.param
    python, path, environment = sys.executable, [str(Path(aflow_trl.__file__).parents[1]), str(TESTS)], {}
    if backend.other_interpreter:
        home = request.getfixturevalue("other_interpreter")
        python, path, environment = str(home / "bin" / "python"), [str(home / "code")], {"PYTHONHOME": str(home)}
    root = Path(tempfile.mkdtemp(dir=public_folder))
    victim, user_home = root / "victim", root / "user"
    (user_home / ".cache" / "huggingface").mkdir(parents=True)
    (user_home / ".cache" / "huggingface" / "token").write_text(SECRET)
    (user_home / "secret").write_text(SECRET)
    victim.mkdir()
    (victim / "file").write_text("precious")
    if backend.uid is not None:
        for folder in (root, victim, user_home):
            folder.chmod(0o755)
        for owned in (victim, victim / "file", user_home):
            os.chown(owned, backend.uid, backend.uid)
    before = fingerprint(victim), fingerprint(user_home), library_state()
    completed = subprocess.run(
        [
            python,
            "-B",
            str((home / "code" if backend.other_interpreter else TESTS) / "corpus_script.py"),
            str(victim),
            str(user_home),
            str(backend.landlock),
            str(int(backend.tmpfs)),
        ],
        env={"PYTHONPATH": os.pathsep.join(path), "PATH": "/usr/bin:/bin", **environment},
        user=backend.uid,
        group=backend.uid,
        extra_groups=None if backend.uid is None else [],
        cwd=root,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert completed.returncode == 0, completed.stderr[-2000:]
    header, *rows = (json.loads(line) for line in completed.stdout.splitlines())
    unchanged = before == (fingerprint(victim), fingerprint(user_home), library_state())
    return {"backend": backend, **header, "rows": {row["id"]: row for row in rows}, "unchanged": unchanged}


def violations(outcome: dict[str, Any], check: Callable[[dict[str, Any]], object]) -> list[tuple[str, object]]:
    """Programs of the corpus for which a check returns something true, and what it returned."""
    return [(row["id"], problem) for row in outcome["rows"].values() if (problem := check(row))]


@pytest.mark.slow
class TestCorpus:
    def test_backend_has_the_intended_tier(self, outcome: dict[str, Any]) -> None:
        backend = outcome["backend"]
        assert outcome["tier"] == backend.tier
        assert len(outcome["rows"]) >= len(corpus.PROGRAMS) - 1

    def test_every_program_ends_as_expected(self, outcome: dict[str, Any]) -> None:
        programs = {program.id: program for program in corpus.PROGRAMS}

        def status(row: dict[str, Any]) -> Any:
            program = programs[row["id"]]
            weaker = outcome["tier"] == "B" and program.read_only is not None
            allowed = program.read_only if weaker else program.allowed
            return None if row["status"] in allowed else (row["status"], allowed, row["stderr"][-200:])

        assert violations(outcome, status) == []

    def test_every_program_prints_as_expected(self, outcome: dict[str, Any]) -> None:
        expected = {p.id: p.stdout for p in corpus.PROGRAMS if p.stdout is not None and p.read_only is None}
        assert violations(outcome, lambda row: expected.get(row["id"], row["stdout"]) != row["stdout"] and row) == []

    def test_no_program_exceeds_its_time_limit(self, outcome: dict[str, Any]) -> None:
        assert violations(outcome, lambda row: row["wall_over_s"] > 1 and row["wall_over_s"]) == []

    def test_no_output_exceeds_the_maximum_size(self, outcome: dict[str, Any]) -> None:
        assert violations(outcome, lambda row: row["bytes"] > CAP_BYTES) == []

    def test_no_output_holds_a_secret(self, outcome: dict[str, Any]) -> None:
        assert violations(outcome, lambda row: row["leaked"]) == []

    def test_no_process_survives(self, outcome: dict[str, Any]) -> None:
        assert violations(outcome, lambda row: row["processes_left"]) == []

    def test_no_scratch_file_survives(self, outcome: dict[str, Any]) -> None:
        assert violations(outcome, lambda row: row["scratch_left"]) == []

    def test_trainer_keeps_its_fds_and_threads(self, outcome: dict[str, Any]) -> None:
        assert violations(outcome, lambda row: row["fds_changed"] or row["threads_changed"]) == []

    def test_event_loop_never_stalls(self, outcome: dict[str, Any]) -> None:
        assert violations(outcome, lambda row: row["longest_gap_s"] > MAX_GAP_S and row["longest_gap_s"]) == []

    def test_fork_server_survives_every_program(self, outcome: dict[str, Any]) -> None:
        assert violations(outcome, lambda row: row["server_changed"]) == []

    def test_next_run_starts_in_an_empty_folder(self, outcome: dict[str, Any]) -> None:
        assert violations(outcome, lambda row: row["next_run"] != "ok []\n" and row["next_run"]) == []

    def test_nothing_outside_has_changed(self, outcome: dict[str, Any]) -> None:
        assert outcome["unchanged"]


async def test_concurrent_runs_are_not_mixed_up() -> None:
    results = await asyncio.gather(*(run(f"print({n} * 2)") for n in range(32)))
    assert [result.stdout for result in results] == [f"{2 * n}\n" for n in range(32)]


async def test_a_thousand_runs_leak_nothing() -> None:
    def resident_kib(pid: int) -> int:
        return int(Path(f"/proc/{pid}/status").read_text().split("VmRSS:")[1].split()[0])

    server = await fork_server()
    pids = (os.getpid(), server._process.pid)
    await asyncio.gather(*(run("open('x', 'w').write('x' * 10_000)") for _ in range(100)))
    fds, before = len(os.listdir("/proc/self/fd")), [resident_kib(pid) for pid in pids]
    server_fds = len(os.listdir(f"/proc/{pids[1]}/fd"))
    for _ in range(9):
        await asyncio.gather(*(run("open('x', 'w').write('x' * 10_000)") for _ in range(100)))
    assert len(os.listdir("/proc/self/fd")) == fds
    assert len(os.listdir(f"/proc/{pids[1]}/fd")) == server_fds
    assert all(resident_kib(pid) - earlier < 2_000 for pid, earlier in zip(pids, before, strict=True))
    assert Path(f"/proc/{pids[1]}/task/{pids[1]}/children").read_text().strip() == ""


async def test_traceback_shows_the_program_only() -> None:
    result = await run("def f():\n    return 1 / 0\nf()")
    assert "ZeroDivisionError" in result.stderr and '"<program>", line 2' in result.stderr
    assert "aflow_trl" not in result.stderr and "child.py" not in result.stderr


async def test_stdin_reaches_the_program() -> None:
    assert (await run("print(input()[::-1])", stdin="abc\n")).stdout == "cba\n"


async def test_program_cannot_make_its_exit_look_like_a_sandbox_failure() -> None:
    for code in (76, 77, 78):
        assert (await run(f"import os; os._exit({code})")).status is not Status.UNAVAILABLE


@pytest.fixture
def scratch_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where servers of this test put their scratch folders, apart from those of other processes."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_servers_of_closed_event_loops_are_released(scratch_root: Path) -> None:
    async def run_both() -> None:
        await run("pass")
        await run_tests("def f(): return 1", ["assert f() == 1"])

    for _ in range(4):
        asyncio.run(run_both())
    gc.collect()
    # The latest loop is closed, too, but its state is dropped by the next one.
    assert len(list(scratch_root.iterdir())) <= 1


async def test_dead_server_is_replaced(scratch_root: Path) -> None:
    server = await fork_server()
    server._process.kill()
    while server.alive:
        await asyncio.sleep(0.01)
    assert (await run("print(1)")).stdout == "1\n"
    assert len(list(scratch_root.iterdir())) == 1


@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGSTOP])
async def test_server_that_is_killed_or_hangs_costs_the_next_call_no_result(signal_number: int) -> None:
    await run_tests("def f(): return 1", ["assert f() == 1"])
    server = await fork_server()
    os.kill(server._process.pid, signal_number)
    started = time.monotonic()
    assert (await run("print(1)", timeout_s=0.5)).stdout == "1\n"
    assert (await run_tests("def f(): return 1", ["assert f() == 1"], timeout_s=0.5)).passed == 1
    assert time.monotonic() - started < 8


async def test_cancelled_runs_close_their_files() -> None:
    await run_tests("def f(): return 1", ["assert f() == 1"])
    fds = len(os.listdir("/proc/self/fd"))
    for number in range(20):
        task = asyncio.ensure_future(run_tests("def f(): return 1", ["assert f() == 1"]))
        for _ in range(number % 5):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    await run("pass")
    assert len(os.listdir("/proc/self/fd")) <= fds + 2  # a tester may have joined the pool


# Trainers that are killed in the middle of a long run, and while many short runs and verdicts exchange messages.
KILLED_TRAINERS = {
    "long run": 'await run(\'open("x", "w"); import time; time.sleep(60)\', timeout_s=60)',
    "busy": (
        "while True: await asyncio.gather(*(run('pass') for _ in range(8)), "
        "*(run_tests('def f(): return 1', ['assert f() == 1']) for _ in range(8)))"
    ),
}


@pytest.mark.parametrize("delay_s", [0.0, 0.1, 0.2])
@pytest.mark.parametrize("name", KILLED_TRAINERS)
def test_killed_trainer_leaves_no_scratch_folder_and_no_server(name: str, delay_s: float, tmp_path: Path) -> None:
    program = (
        "import asyncio\nfrom aflow_trl.sandbox import run, run_tests\nasync def main():\n"
        f" await run('pass')\n print('ready', flush=True)\n {KILLED_TRAINERS[name]}\nasyncio.run(main())"
    )
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, env=environment
    ) as trainer:
        assert trainer.stdout.readline() == "ready\n"
        assert list(tmp_path.iterdir())
        time.sleep(delay_s)
        trainer.kill()
    deadline = time.monotonic() + 5
    while list(tmp_path.iterdir()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert list(tmp_path.iterdir()) == []


# -- tiers -----------------------------------------------------------------------------------------------------------

FULL = Layers(landlock=1, seccomp=True, spare_uid=False, tmpfs=False)


@pytest.mark.parametrize(
    ("layers", "tier"),
    [
        (FULL, Tier.A),
        (Layers(landlock=7, seccomp=True, spare_uid=True, tmpfs=False), Tier.A),
        (Layers(landlock=0, seccomp=True, spare_uid=True, tmpfs=False), Tier.B),
        (Layers(landlock=0, seccomp=True, spare_uid=False, tmpfs=False), Tier.C),
        (Layers(landlock=7, seccomp=False, spare_uid=True, tmpfs=False), Tier.C),
    ],
)
def test_tier_depends_on_the_layers(layers: Layers, tier: Tier) -> None:
    assert layers.tier is tier


@pytest.mark.parametrize(
    ("layers", "missing"),
    [
        (Layers(0, True, False, False), "Landlock"),
        (Layers(1, False, True, False), "seccomp"),
        (Layers(0, False, False, False), "Landlock and seccomp"),
    ],
)
def test_machine_that_cannot_confine_is_refused_with_the_missing_layers(layers: Layers, missing: str) -> None:
    with pytest.raises(SandboxUnavailableError, match=f"{missing} missing.*allow_weak_sandbox"):
        choose_layers(layers)


def test_weak_sandbox_warns_about_what_programs_can_reach(caplog: pytest.LogCaptureFixture) -> None:
    allow_weak_sandbox()
    try:
        choose_layers(Layers(0, True, False, False))
    finally:
        allow_weak_sandbox(False)
    assert "API keys" in caplog.text and "read the files" in caplog.text


def test_working_folder_among_the_libraries_is_warned_about(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(sysconfig.get_paths()["purelib"])
    choose_layers(FULL)
    assert "programs can read" in caplog.text


async def test_weak_sandbox_runs_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    server = await client.ForkServer.start(
        lambda offer: replace(offer, landlock=0, seccomp=False, spare_uid=False, tmpfs=False)
    )
    monkeypatch.setattr(client._state(), "server", server)
    assert (await run("print(open('/etc/passwd').read()[:4])")).stdout == "root\n"


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
@pytest.mark.parametrize("read_only", [False, True])
def test_filter_is_valid_on_both_architectures(machine: str, read_only: bool) -> None:
    """Jumps stay inside the program, and it decides about every call as the tables say."""
    program = filters.template(read_only, machine)
    instructions = list(struct.iter_unpack("=HBBI", program))
    assert len(filters.pid_offsets(program)) == 3
    column = 0 if machine == "x86_64" else 1
    allowed = filters.ALLOWED | ({} if read_only else filters.WRITING)
    numbers = {row[column] for row in allowed.values()}
    for number in range(600):
        verdict = verdict_of(instructions, {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}[machine], number)
        assert (verdict == ALLOW) == (number in numbers)
        assert verdict == NO_SYSTEM_CALL or number < 454


ALLOW, NO_SYSTEM_CALL = 0x7FFF0000, 0x00050026


def verdict_of(instructions: list[tuple[int, int, int, int]], architecture: int, number: int) -> int | None:
    """What a filter decides about a system call; `None` if that depends on an argument."""
    index, accumulator = 0, 0
    while True:
        code, if_true, if_false, value = instructions[index]
        index += 1
        if code == 0x06:
            return value
        if code == 0x20 and value >= 16:
            return None
        if code == 0x20:
            accumulator = {0: number, 4: architecture}[value]
        elif code == 0x05:
            index += value
        else:
            index += if_true if {0x15: accumulator == value, 0x35: accumulator >= value}[code] else if_false
