"""A run is made by one process at a time; a lease whose owner is dead or silent is anybody's, and only one
gets it.
"""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from clipbench.errors import UserError
from clipbench.record import lease
from clipbench.record.lease import EXPIRES, Heartbeat, Lease, Owner, holder

ROUNDS, RIVALS = 200, 3


def silent(path, seconds=EXPIRES + 1):
    """As if the owner had last been heard of so long ago."""
    then = time.time() - seconds
    os.utime(path, (then, then))


def written(folder, content):
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "lease.1"
    path.write_bytes(content)
    return path


def test_a_held_lease_names_its_owner_and_is_refused_to_others(tmp_path):
    mine, other = Lease(tmp_path / "run"), Lease(tmp_path / "run")
    assert mine.acquire() is None
    assert f"process {os.getpid()} on " in str(other.acquire())
    assert f"process {os.getpid()} on " in str(holder(tmp_path / "run"))
    mine.release()
    assert holder(tmp_path / "run") is None
    assert other.acquire() is None


def test_a_silent_owner_keeps_its_lease_until_it_expires(tmp_path):
    Lease(tmp_path).acquire()
    silent(tmp_path / "lease.1", EXPIRES - 5)
    assert "last heard of 55 s ago" in str(holder(tmp_path))
    silent(tmp_path / "lease.1")
    assert holder(tmp_path) is None


def test_who_stalled_and_lost_the_lease_does_not_disturb_the_successor(tmp_path):
    stalled, successor = Lease(tmp_path), Lease(tmp_path)
    stalled.acquire()
    silent(tmp_path / "lease.1")
    assert successor.acquire() is None
    stalled.renew()
    stalled.release()
    assert [path.name for path in tmp_path.glob("lease.*")] == ["lease.2"]
    assert holder(tmp_path)


@pytest.mark.parametrize("reaped", [False, True], ids=["zombie", "gone"])
def test_a_dead_process_of_this_machine_holds_nothing(tmp_path, reaped):
    code = "import sys, time; from clipbench.record.lease import *; "
    code += "print(Lease(Path(sys.argv[1])).acquire(), flush=True); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "None\n"
    assert f"process {process.pid} on " in str(holder(tmp_path))
    process.send_signal(signal.SIGSTOP)  # not dead: it may go on
    assert holder(tmp_path)
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | (0 if reaped else os.WNOWAIT))
    assert holder(tmp_path) is None
    assert Lease(tmp_path).acquire() is None
    process.stdout.close()
    process.wait()


def test_an_owner_is_a_process_of_a_host(tmp_path):
    path = written(tmp_path, json.dumps({"host": "a", "machine": "a", "pid": 71, "started": "1"}).encode())
    silent(path, 3)
    owner = holder(tmp_path)
    assert (owner.pid, owner.host, owner.name) == (71, "a", "process 71 on a")
    assert owner.silent_seconds == pytest.approx(3, abs=1)
    assert str(Owner(71, "a", 3.2)) == "process 71 on a, last heard of 3 s ago"


def test_of_another_machines_process_only_its_silence_is_known(tmp_path):
    owner = {"host": "elsewhere", "machine": "elsewhere", "pid": os.getpid(), "started": "1"}
    path = written(tmp_path, json.dumps(owner).encode())
    assert f"process {os.getpid()} on elsewhere" in str(Lease(tmp_path).acquire())
    silent(path)
    assert Lease(tmp_path).acquire() is None


@pytest.mark.parametrize(
    "content", [b"", b'{"host": "a', b"\0" * 80, b"\xff"], ids=["empty", "cut", "zeros", "noise"]
)
def test_a_lease_half_written_counts_until_it_expires(tmp_path, content):
    path = written(tmp_path, content)
    assert "has not written" in str(Lease(tmp_path).acquire())
    silent(path)
    assert Lease(tmp_path).acquire() is None


def test_the_heartbeat_renews_until_the_end_and_then_releases(tmp_path, monkeypatch):
    monkeypatch.setattr(lease, "HEARTBEAT", 0.02)
    with Heartbeat() as heartbeat:
        assert heartbeat.acquire(Lease(tmp_path)) is None
        silent(tmp_path / "lease.1")
        deadline = time.monotonic() + 10
        while holder(tmp_path) is None and time.monotonic() < deadline:
            time.sleep(0.02)
        assert holder(tmp_path)
        assert heartbeat.acquire(Lease(tmp_path))  # refused
    assert list(tmp_path.iterdir()) == []


def test_who_looked_before_others_came_and_went_gets_nothing(tmp_path):
    """It finds lease.1 expired and stalls over reading it, here a pipe that nobody writes to; meanwhile
    lease.2 was, and lease.3 is.
    """
    os.mkfifo(tmp_path / "lease.1")
    silent(tmp_path / "lease.1")
    slow, answers = Lease(tmp_path), []
    thread = threading.Thread(target=lambda: answers.append(slow.acquire()))
    thread.start()
    with open(tmp_path / "lease.1", "w"):  # opens once the reader is there
        (tmp_path / "lease.3").write_text(json.dumps({"host": "b", "machine": "b", "pid": 1, "started": "1"}))
        (tmp_path / "lease.1").unlink()
    thread.join()
    assert answers[0].name == "process 1 on b"
    assert [path.name for path in tmp_path.iterdir()] == ["lease.3"]


def race(folders, number, barrier, won):
    for i, folder in enumerate(folders):
        mine = Lease(folder)
        barrier.wait(60)
        won[i * RIVALS + number] = mine.acquire() is None
        barrier.wait(60)  # nobody is gone before all have tried


def test_of_several_that_race_for_an_expired_lease_one_gets_it(tmp_path):
    folders = [tmp_path / str(i) for i in range(ROUNDS)]
    for folder in folders:
        Lease(folder).acquire()
        silent(folder / "lease.1")
    context = multiprocessing.get_context("spawn")
    barrier, won = context.Barrier(RIVALS), context.Array("b", ROUNDS * RIVALS)
    rivals = [context.Process(target=race, args=(folders, i, barrier, won)) for i in range(RIVALS)]
    for rival in rivals:
        rival.start()
    for rival in rivals:
        rival.join(120)
    assert [rival.exitcode for rival in rivals] == [0] * RIVALS
    winners = [won[i : i + RIVALS].count(1) for i in range(0, len(won), RIVALS)]
    assert winners == [1] * ROUNDS
    assert (
        len({tuple(won[i : i + RIVALS]) for i in range(0, len(won), RIVALS)}) > 1
    )  # it was a race: not always the same one won


def test_a_full_disk_leaves_no_lease_that_nobody_holds(tmp_path):
    resource = pytest.importorskip("resource")
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))  # nothing can be written, names can
    try:
        with pytest.raises(UserError, match=f"^Cannot write to {tmp_path}: File too large"):
            Lease(tmp_path / "r1").acquire()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert Lease(tmp_path / "r1").acquire() is None
