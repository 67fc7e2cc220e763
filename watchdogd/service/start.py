"""From a configuration file to a running daemon, and its end: `mongo-watchdog run`.

Everything that a second daemon or a bad configuration must stop stands before the first edge is opened.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import selectors
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from watchdogd import __version__
from watchdogd.config import Config, ConfigError, Mode, load
from watchdogd.model.text import AlreadyRunning
from watchdogd.model.told import Started, Tell
from watchdogd.observe.observer import Observer, open_edges
from watchdogd.report.history import History
from watchdogd.report.journal import Journal
from watchdogd.report.notify import Notifier
from watchdogd.report.say import say
from watchdogd.report.sinks import Sinks
from watchdogd.service import rights
from watchdogd.service.control import ControlError, Server
from watchdogd.service.daemon import Daemon
from watchdogd.service.store import Store, StoreError

EX_TEMPFAIL, EX_CONFIG = 75, 78  # sysexits.h; the unit restarts after neither


def run(path: Path, *, observe: bool) -> int:
    """Run the daemon until SIGTERM. 78: the configuration, or a folder that it names; 75: another daemon runs."""
    faulthandler.enable()  # systemd's watchdog ends a hung loop by SIGABRT: its stack is then in the journal
    try:
        _run(partial(_load, path, observe=observe))
    except AlreadyRunning as error:
        say(str(error), file=sys.stderr)
        return EX_TEMPFAIL
    except ConfigError as error:
        say(*error.mistakes, file=sys.stderr)
        return EX_CONFIG
    except (StoreError, ControlError) as error:
        say(str(error), file=sys.stderr)
        return EX_CONFIG
    sys.stderr.flush()
    # pymongo's threads may hang in DNS, and a normal exit waits for them: 5.2 s with five of them (measured).
    os._exit(0)


def _run(read: Callable[[], Config]) -> None:
    config, selector = read(), selectors.DefaultSelector()
    store = Store(config.state_dir, runtime_dir=_runtime_dir(config))
    with contextlib.closing(Server(config.control_socket, selector)) as server:
        rights.tell(config)
        wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        edges = open_edges(lambda: os.eventfd_write(wake, 1))
        loaded = store.load(edges.clock(), edges.wall())
        observer = Observer(config, edges)
        observer.restore(loaded.observed, loaded.access)
        sinks = Sinks(Journal.of_this_process(), History(config.state_dir))
        sinks.tell(_started(config), edges.wall())
        Daemon(
            config=config,
            observer=observer,
            store=store,
            server=server,
            selector=selector,
            sinks=sinks,
            notifier=Notifier(),
            wake=wake,
            clock=edges.clock,
            wall=edges.wall,
            state=loaded.state,
            load=read,
        ).run()


def _runtime_dir(config: Config) -> Path:
    """Return the folder that outlasts this process, on no disk: systemd's (systemd.exec(5)), or that of the socket."""
    named = os.environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]
    return Path(named) if named else config.control_socket.parent


def _load(path: Path, *, observe: bool) -> Config:
    config = load(path)
    return replace(config, mode=Mode.OBSERVE) if observe else config


def _started(config: Config) -> Tell:
    instances = None if config.instances is None else len(config.instances)
    return Tell(Started(__version__, config.mode.value, len(config.deployments), instances))
