"""The file -> one frozen Config, or every mistake at once; and what holds between several keys of it.

Must never need what only the daemon may read (the URIs) to tell `status` where the control socket is.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from watchdogd import paths
from watchdogd.config.keys import DEPLOYMENT, INSTANCE, ONE_URI, TOP
from watchdogd.config.names import short_name
from watchdogd.config.strict_yaml import (
    MAX_BYTES,
    Mistakes,
    Spot,
    Wrong,
    compose,
    quoted,
    section,
    suggestion,
)
from watchdogd.config.values import DEFAULT_CONTROL_SOCKET, DEFAULT_STATE_DIR, Config, DeploymentConfig, InstanceConfig


class ConfigError(Exception):
    """A configuration that cannot be used; `mistakes` has all that is wrong, a line of text for each."""

    def __init__(self, mistakes: tuple[str, ...]) -> None:
        super().__init__("\n".join(mistakes))
        self.mistakes = mistakes


class ConfigUnreadable(ConfigError):
    """The file itself could not be read: it is not there, or this user may not."""


def load(path: Path) -> Config:
    """Return what the file says, with the files and credentials that it names read; raises ConfigError."""
    mistakes = Mistakes(str(path))
    root = compose(_content(path), mistakes)
    config = root.read(partial(_config, path=path)) if root else None
    if config is None or mistakes.messages():
        raise ConfigError(mistakes.messages())
    return config


def places(path: Path) -> tuple[Path, Path]:
    """Return where the daemon of this file listens, and its state folder; raises ConfigError.

    Its other keys do not matter, right or wrong: the daemon may still run with what stood there before, and
    who asks for its status need not be able to read its URI.
    """
    mistakes = Mistakes(str(path))
    root = compose(_content(path), mistakes)
    found = root.read(partial(section, keys=TOP)) if root else None
    if found is None or ("control_socket" in found.spots and "control_socket" not in found.values):
        raise ConfigError(mistakes.messages())
    values = found.values
    return Path(values.get("control_socket", DEFAULT_CONTROL_SOCKET)), Path(values.get("state_dir", DEFAULT_STATE_DIR))


def found_instance(fifo: Path, config: Config) -> InstanceConfig:
    """Return the defaults for an instance that was found on the host, named after its FIFO.

    It belongs to the deployment if there is only one; with several nobody knows to which, so it is shown and
    never reloaded.
    """
    alone = len(config.deployments) == 1
    return InstanceConfig(
        name=short_name(fifo),
        master_fifo=fifo,
        deployments=(config.deployments[0].name,) if alone else (),
    )


def _content(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except OSError as error:
        mistakes = Mistakes(str(path))
        mistakes.add(1, 1, "", f"cannot be read: {error.strerror}; expected a file that this user may read")
        raise ConfigUnreadable(mistakes.messages()) from None


def _config(spot: Spot, path: Path) -> Config:
    found = section(spot, TOP)
    values: dict[str, Any] = found.values | {"path": path, "deployments": ()}
    known: dict[str, int] = {}
    if "mongodb" in found.spots:
        read = found.spots["mongodb"].read(partial(_deployments, names=known)) or []
        values["deployments"] = tuple([one for one in read if one])
        if len(known) < len(read):
            known.clear()  # a name is wrong: whether an instance names it right cannot be said
    if "uwsgi" in found.spots:
        values["instances"] = found.spots["uwsgi"].read(partial(_instances, deployments=tuple(known)))
    return Config(**values)


def _deployments(spot: Spot, names: dict[str, int]) -> list[DeploymentConfig | None]:
    items = spot.items("a list of deployments")
    if not items:
        raise Wrong('is an empty list; it needs at least one entry like `- uri: "mongodb://127.0.0.1:27017/"`')
    return [item.read(partial(_deployment, names=names, alone=len(items) == 1)) for item in items]


def _deployment(spot: Spot, names: dict[str, int], *, alone: bool) -> DeploymentConfig:
    found = section(spot, DEPLOYMENT)
    if "name" in found.spots:
        _once(names, found.spots["name"], found.values.get("name"), "this name")
    elif alone:
        names["main"] = 0
    else:
        spot.tell("is missing; with several deployments each one needs a name", key="name")
    given = [key for key in ("uri", "uri_file", "uri_credential") if key in found.spots]
    if not given:
        spot.tell(f"is missing; {ONE_URI}", key="uri")
    for key in given[1:]:
        found.spots[key].tell(f"stands beside `{given[0]}`; keep one of them")
    values: dict[str, Any] = {"name": "main", "uri": ""} | found.values
    return DeploymentConfig(**values)


def _instances(spot: Spot, deployments: Sequence[str]) -> tuple[InstanceConfig, ...]:
    items = spot.items("a list of instances")
    if not items:
        raise Wrong("is an empty list; leave the key out to watch every instance that has a master FIFO")
    names: dict[str, int] = {}
    fifos: dict[str, int] = {}
    read = [item.read(partial(_instance, deployments=deployments, names=names, fifos=fifos)) for item in items]
    return tuple([one for one in read if one])


def _instance(spot: Spot, deployments: Sequence[str], names: dict[str, int], fifos: dict[str, int]) -> InstanceConfig:
    found = section(spot, INSTANCE)
    values: dict[str, Any] = {"name": "", "master_fifo": Path("/"), "deployments": ()} | found.values
    if "master_fifo" in found.values:
        # Two names of one FIFO (/var/run is /run) would be two instances that reload the same workers.
        _once(fifos, found.spots["master_fifo"], _place(values["master_fifo"]), "this FIFO")
    if "name" in found.spots:
        _once(names, found.spots["name"], values["name"], "this name")
    elif "master_fifo" in found.values:
        values["name"] = short_name(values["master_fifo"])
        _once(names, spot, values["name"], f"{quoted(values['name'])}, its name after its FIFO,")
    if "mongodb" in found.spots:
        _known_only(found.spots["mongodb"], values["deployments"], deployments)
    elif len(deployments) == 1:
        values["deployments"] = tuple(deployments)
    elif deployments:
        spot.tell(f"is missing; write which of {', '.join(deployments)} its workers connect to", key="mongodb")
    values |= {name: frozenset(values[name]) for name in ("reloads", "trust_owners") if name in values}
    return InstanceConfig(**values)


def _place(fifo: Path) -> str:
    """Return where a path leads by root's links and our own.

    A link of anybody else makes no mistake of this file: one user could have it refused, for all instances, by a link
    to another one's FIFO. The daemon judges that at each look.
    """
    try:
        led = paths.follow(str(fifo))
    except OSError:
        return str(fifo)
    return led.path if all(link.uid in {0, os.geteuid()} for link in led.links) else str(fifo)


def _known_only(spot: Spot, names: Sequence[str], deployments: Sequence[str]) -> None:
    unknown = set(names) - set(deployments) if deployments else set()
    for item in spot.items("a list of names") if unknown else ():
        name = item.node.value
        if item.node.value in unknown:
            item.tell(f"there is no deployment {quoted(name)}; {suggestion(name, deployments)}")


def _once(seen: dict[str, int], spot: Spot, value: str | None, what: str) -> None:
    if value in seen:
        spot.tell(f"{what} stands in line {seen[value]} already; each entry needs its own")
    elif value:
        seen[value] = spot.node.start_mark.line + 1
