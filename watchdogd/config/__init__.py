"""YAML -> one frozen Config, or every mistake at once with file, line, column, key and the mend."""

from watchdogd.config.durations import format_duration, parse_duration
from watchdogd.config.load import ConfigError, ConfigUnreadable, control_socket, found_instance, load
from watchdogd.config.names import distinct_names
from watchdogd.config.values import (
    DEFAULT_CONTROL_SOCKET,
    DEFAULT_PATH,
    Budget,
    Cause,
    Config,
    DeploymentConfig,
    Idle,
    InstanceConfig,
    Mode,
    PolicyConfig,
)

__all__ = [
    "DEFAULT_CONTROL_SOCKET",
    "DEFAULT_PATH",
    "Budget",
    "Cause",
    "Config",
    "ConfigError",
    "ConfigUnreadable",
    "DeploymentConfig",
    "Idle",
    "InstanceConfig",
    "Mode",
    "PolicyConfig",
    "control_socket",
    "distinct_names",
    "format_duration",
    "found_instance",
    "load",
    "parse_duration",
]
