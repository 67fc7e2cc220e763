"""The store on a real file system that takes nothing: a tiny tmpfs that is full, or that was mounted read-only."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to mount a file system")

# A daemon saves, the file system takes nothing more, it saves again and is killed. So is the next one. A third begins,
# and goes on; then there is room again.
STORY = """
import os, subprocess, sys
from pathlib import Path
from watchdogd.model.remembered import State
from watchdogd.service.store import BACK_EVERY_S, Store

folder, runtime, ends, mends = Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:]

def killed(do):
    child = os.fork()
    if child == 0:
        try:
            do()
        finally:
            os.kill(os.getpid(), 9)
    os.waitpid(child, 0)

def begun():
    return Store(folder, "boot", runtime_dir=runtime)

def first():
    one = begun()
    one.save(State(serial=1), (), 1.0, 1.0)
    end()
    one.save(State(serial=2), (), 2.0, 2.0)

def end():
    subprocess.run(ends, shell=True, check=False, cwd=folder, stderr=subprocess.DEVNULL)

def second():
    one = begun()
    print(one.load(3.0, 3.0).state.serial)
    one.save(State(serial=3), (), 3.0, 3.0)
    print(one.degraded, flush=True)

killed(first)
end()  # nothing is made read-only while a daemon has its lock open
killed(second)
one = begun()
print(one.load(4.0, 4.0).state.serial)
one.save(State(serial=4), (), 4.0, 4.0)
print(sorted(path.name for path in runtime.iterdir()))
subprocess.run(mends, shell=True, check=True, cwd=folder)
one.save(State(serial=4), (), 4.0 + BACK_EVERY_S, 4.0 + BACK_EVERY_S)
print(one.degraded, sorted(path.name for path in runtime.iterdir()), sorted(path.name for path in folder.iterdir()))
one.close()
print(begun().load(20.0, 20.0).state.serial)
"""
FULL = ("head -c 1M /dev/zero >filler", "rm filler")
READ_ONLY = ("mount -o remount,ro .", "mount -o remount,rw .")


@pytest.mark.parametrize(
    ("changes", "why"), [(FULL, "No space left on device"), (READ_ONLY, "Read-only file system")], ids=["full", "ro"]
)
def test_what_a_file_system_does_not_take_is_kept_elsewhere_until_it_does(
    tmp_path: Path, changes: tuple[str, str], why: str
) -> None:
    folder, runtime = tmp_path / "state", tmp_path / "run"
    folder.mkdir()
    runtime.mkdir(mode=0o755)
    mount = 'mount -t tmpfs -o size=16k none "$0" && exec "$@"'
    command = ["unshare", "--mount", "sh", "-c", mount, str(folder), sys.executable, "-c", STORY]
    ran = subprocess.run(
        [*command, str(folder), str(runtime), *changes], capture_output=True, text=True, check=False, timeout=50
    )
    assert ran.returncode == 0, ran.stderr
    second, degraded, third, elsewhere, back, last = ran.stdout.splitlines()
    assert f"it is kept in {runtime}, which the next boot of the machine empties, since {folder}/state.json" in degraded
    assert why in degraded
    assert (second, third, elsewhere) == ("2", "3", "['state.json']")
    assert (back, last) == ("None [] ['lock', 'state.json']", "4")
