"""What README tells a user to type and to write, as it stands there."""

import re

from tests.once import ROOT

README = (ROOT / "README.md").read_text()


def commands(part: str) -> list[str]:
    """The commands of the marked part, one a line, without what is said beside them."""
    found = re.search(rf"^<!-- {part} -->\n```sh\n(.*?)^```\n<!-- /{part} -->$", README, re.MULTILINE | re.DOTALL)
    assert found, f"README has no part {part}"
    return [re.sub(r" +# .*", "", line) for line in found[1].splitlines()]


def configuration() -> str:
    """The smallest configuration that works."""
    found = re.search(r"^```yaml\n(# /etc/mongo-watchdog/config\.yaml\n.*?)^```$", README, re.MULTILINE | re.DOTALL)
    assert found, "README has no configuration"
    return found[1]
