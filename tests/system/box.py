"""A real systemd, booted in an overlay of a Debian in a folder: what happens inside touches nothing outside.

0.5 s on a quiet machine. It has processes, cgroups, mounts, users and a network of its own (loopback alone), and the
folders that it is given read-only. It must never leave a process, a mount or a folder behind; what a killed test run
left is swept by the next one. Needs root, systemd-nspawn and overlayfs.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

from rig.netns import Namespace
from rig.processes import Process, wait_for

BOOT_WITHIN_S = 60.0  # 10 s were seen at a load of 50
COMMAND_WITHIN_S = 60.0
_PREFIX = "mw-box-"
_PLACE = Path("/var/tmp")  # not /tmp: nspawn mounts another one inside
_CGROUPS = Path("/sys/fs/cgroup")

# What a container has no use for.
_MASKED = """
    apt-daily-upgrade.timer apt-daily.timer console-getty.service dev-hugepages.mount dev-mqueue.mount
    dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service fstrim.timer getty-static.service getty.target
    kmod-static-nodes.service logrotate.timer man-db.timer modprobe@.service proc-sys-fs-binfmt_misc.automount
    sys-fs-fuse-connections.mount sys-kernel-config.mount sys-kernel-debug.mount sys-kernel-tracing.mount
    systemd-firstboot.service systemd-journal-flush.service systemd-logind.service systemd-machine-id-commit.service
    systemd-modules-load.service systemd-networkd.service systemd-networkd.socket systemd-pstore.service
    systemd-random-seed.service systemd-remount-fs.service systemd-resolved.service systemd-sysctl.service
    systemd-timesyncd.service systemd-tmpfiles-clean.timer systemd-udev-trigger.service
    systemd-udevd-control.socket systemd-udevd-kernel.socket systemd-udevd.service
    systemd-update-utmp-runlevel.service systemd-update-utmp.service systemd-user-sessions.service
"""

_BOOT = r"""
for group in $CGROUPS; do echo $$ >"$group/cgroup.procs"; done
exec unshare --mount --pid --fork --kill-child=KILL --mount-proc --propagation private sh -euc '
    mount --make-rprivate /
    mount -t tmpfs -o mode=0755,size=2g box "$BOX"
    mkdir "$BOX/upper" "$BOX/work" "$BOX/root"
    root=$BOX/root
    mount -t overlay overlay -o lowerdir="$SYSTEM",upperdir="$BOX/upper",workdir="$BOX/work" "$root"
    rm -rf "$root/var/log/journal"
    for unit in $MASKED; do ln -sfn /dev/null "$root/etc/systemd/system/$unit"; done
    : >"$root/etc/machine-id"
    mkdir -p "$root/etc/systemd/journald.conf.d"
    printf "[Journal]\nStorage=volatile\nRateLimitIntervalSec=0\n" >"$root/etc/systemd/journald.conf.d/box.conf"
    exec systemd-nspawn --quiet --directory="$root" --boot --register=no --keep-unit --private-network \
        --console=pipe --capability=all "$@" systemd.unit="$TARGET"
' box "$@"
"""

_ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "TERM": "dumb",
    "SYSTEMD_PAGER": "cat",
    "SYSTEMD_COLORS": "0",
}


class _Network(Namespace):
    """The network of a box, to step into: requests go out from inside."""

    def __init__(self, pid: int) -> None:
        self._descriptor = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)


class Box:
    """The Debian of a folder, booted; as a context manager it boots and is gone at the end.

    `shows`: what else is inside, read-only: outside -> inside. `target`: what it boots to (what packages enable is for
    multi-user.target). To be started from the main thread of the test process.
    """

    def __init__(self, system: Path, shows: Mapping[Path, str] | None = None, target: str = "basic.target") -> None:
        self.name = f"{_PREFIX}{os.getpid()}-{uuid.uuid4().hex[:8]}"  # a host name too: no underscore
        self._folder = _PLACE / self.name
        self._folder.mkdir(mode=0o700)
        # --keep-unit has it make <our cgroup>/payload: two boxes in one cgroup would share that.
        self._cgroups = [folder / self.name for folder in _own_cgroups()]
        self.console = self._folder.with_suffix(".console")
        environment = {
            "BOX": str(self._folder),
            "CGROUPS": " ".join(map(str, self._cgroups)),
            "MASKED": " ".join(_MASKED.split()),
            "SYSTEM": str(system),
            "TARGET": target,
            "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1",  # else a hybrid one, in which nothing is accounted
            "SYSTEMD_SECCOMP": "0",  # nspawn's own filter; those of the units inside stay
        }
        shown = [f"--bind-ro={outside}:{inside}" for outside, inside in (shows or {}).items()]
        argv = ["sh", "-euc", _BOOT, "box", f"--machine={self.name}", *shown]
        self._process = Process(argv, log=self.console, env=environment)
        self._leader = 0
        self._network: _Network | None = None

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as failed:
            failed.callback(self.close)
            self._boot()
            failed.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Kills everything inside, and removes what stands for it outside."""
        if self._network is not None:
            self._network.close()
            self._network = None
        self._process.end(signal.SIGKILL)  # of unshare: the kernel ends all that is inside
        for cgroup in self._cgroups:
            wait_for(lambda group=cgroup: _removed(group), f"the end of cgroup {cgroup}", within=10)  # type: ignore[misc]
        shutil.rmtree(self._folder, ignore_errors=True)
        self.console.unlink(missing_ok=True)

    # -- inside

    def run(
        self, *command: str, check: bool = True, within: float = COMMAND_WITHIN_S, stdin: str | None = None
    ) -> "subprocess.CompletedProcess[str]":
        """Runs a command inside as root and gives its end; AssertionError where it fails and `check` is set."""
        enter = ["nsenter", "-t", str(self._leader), "-m", "-u", "-i", "-n", "-p", "-C", "--"]
        done = subprocess.run(
            [*enter, *command],
            env=_ENVIRONMENT,
            capture_output=True,
            text=True,
            timeout=within,
            input=stdin,
            check=False,
        )
        assert not check or done.returncode == 0, f"{command} gave {done.returncode}:\n{done.stdout}{done.stderr}"
        return done

    def systemctl(self, *arguments: str, check: bool = True, within: float = COMMAND_WITHIN_S) -> str:
        """What `systemctl` says."""
        done = self.run("systemctl", *arguments, check=check, within=within)
        return done.stdout + done.stderr

    def show(self, unit: str, name: str) -> str:
        """One property of a unit."""
        return self.run("systemctl", "show", "--value", f"--property={name}", unit).stdout.strip()

    def path(self, inside: str) -> Path:
        """A file inside, as it is reached from outside."""
        return Path(f"/proc/{self._leader}/root{inside}")

    def files(self) -> set[str]:
        """All files and folders that last over a reboot, by their paths."""
        return set(self.run("find", "/", "-xdev").stdout.splitlines())

    def outside(self, pid: int) -> int:
        """The pid outside of a process inside; 0 for one that is not there."""
        depth = len(_pids(self._leader))
        for one in psutil.Process(self._leader).children(recursive=True):
            with contextlib.suppress(OSError):
                pids = _pids(one.pid)
                if len(pids) >= depth and pids[depth - 1] == str(pid):
                    return one.pid
        return 0

    def write(self, inside: str, text: str, mode: int = 0o644) -> None:
        """Writes a file inside, with its folders; root's."""
        path = self.path(inside)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)

    def journal(self, *arguments: str) -> list[dict[str, Any]]:
        """The entries of the journal that these arguments of journalctl choose."""
        output = self.run("journalctl", "--output=json", "--quiet", *arguments).stdout
        return [json.loads(line) for line in output.splitlines()]

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """The calling thread, and the sockets and threads that it makes, are in the box's network meanwhile."""
        assert self._network is not None
        with self._network.entered():
            yield

    def _boot(self) -> None:
        for cgroup in self._cgroups:
            cgroup.mkdir()
        self._process.start()
        self._process.wait_until(self._is_up, "the box is up", within=BOOT_WITHIN_S)
        self._network = _Network(self._leader)

    def _is_up(self) -> bool:
        self._leader = self._leader or _leader(self._process.pid)
        if not self._leader:
            return False
        state = self.run("systemctl", "is-system-running", check=False).stdout.strip()
        return state in {"running", "degraded"}


def sweep() -> None:
    """Removes what killed test runs have left: empty folders and cgroups, named by their run's pid."""
    for folder in (*_own_cgroups(), _PLACE):
        for left in folder.glob(f"{_PREFIX}*"):
            pid = left.name.removeprefix(_PREFIX).partition("-")[0]
            if not pid.isdigit() or psutil.pid_exists(int(pid)):
                continue
            if left.is_file():
                left.unlink()
            else:
                _removed(left)


def _removed(folder: Path) -> bool:
    """Removes a folder of empty folders; whether it is gone."""
    if not folder.exists():
        return True
    with contextlib.suppress(OSError):  # a process in it is still ending
        for inner, _, _ in os.walk(folder, topdown=False):
            Path(inner).rmdir()
    return not folder.exists()


def _own_cgroups() -> list[Path]:
    """The folders of this process's cgroup: of v2, and of systemd's own v1 hierarchy where there is that."""
    found = []
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        number, controllers, path = line.split(":", 2)
        if number == "0":
            base = _CGROUPS / "unified" if (_CGROUPS / "unified").is_dir() else _CGROUPS
        elif controllers == "name=systemd" and (_CGROUPS / "systemd").is_mount():
            base = _CGROUPS / "systemd"
        else:
            continue
        found.append(base / path.strip("/"))
    return found


def _leader(pid: int) -> int:
    """The pid outside of the process that is PID 1 inside: two namespaces further in than we; 0 while there is none."""
    depth = len(_pids(os.getpid())) + 2
    with contextlib.suppress(psutil.Error, OSError):
        for one in psutil.Process(pid).children(recursive=True):
            pids = _pids(one.pid)
            if len(pids) == depth and pids[-1] == "1" and one.name() == "systemd":
                return one.pid
    return 0


def _pids(pid: int) -> list[str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(line.split()[1:] for line in lines if line.startswith("NSpid:"))
