"""Somebody who types what README says."""

import re
import subprocess
from dataclasses import dataclass

from tests.once import ROOT
from tests.system.box import Box

HOME = "/home/ann"
STEP_S = 120.0
_README = (ROOT / "README.md").read_text()


def commands(part: str) -> list[str]:
    """The commands in a marked part of README, one a line, without what is said beside them."""
    found = re.search(rf"^<!-- {part} -->\n```sh\n(.*?)^```\n<!-- /{part} -->$", _README, re.MULTILINE | re.DOTALL)
    assert found, f"README has no part {part}"
    return [re.sub(r" +# .*", "", line) for line in found[1].splitlines()]


def configuration() -> str:
    """README's smallest configuration that works."""
    found = re.search(r"^```yaml\n(# /etc/mongo-watchdog/config\.yaml\n.*?)^```$", _README, re.MULTILINE | re.DOTALL)
    assert found, "README has no configuration"
    return found[1]


@dataclass(eq=False)
class User:
    """ann, who may use sudo, in her login shell; what her editor leaves in a file is README's configuration."""

    box: Box

    def __post_init__(self) -> None:
        self.box.run("useradd", "--create-home", "--shell=/bin/bash", "ann")
        self.box.write("/etc/sudoers.d/ann", "ann ALL=(ALL) NOPASSWD: ALL\n", 0o440)
        self.box.write(f"{HOME}/config.yaml", configuration())
        self.box.write(f"{HOME}/editor", f'#!/bin/sh\ncat {HOME}/config.yaml >"$1"\n', 0o755)
        self.box.write(f"{HOME}/.profile", f"export EDITOR={HOME}/editor\n")

    def types(self, command: str, folder: str = HOME) -> "subprocess.CompletedProcess[str]":
        """One line as it stands; she says yes where she is asked."""
        line = f"cd {folder} && {command}"
        return self.box.run("runuser", "--login", "ann", "--command", line, stdin="y\n", within=STEP_S)
