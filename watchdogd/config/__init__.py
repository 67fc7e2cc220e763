"""YAML -> one frozen Config, or every mistake at once with file, line, column, key and the mend."""

from watchdogd.config.durations import format_duration, parse_duration
from watchdogd.config.load import ConfigError, ConfigUnreadable, found_instance, load, places
from watchdogd.config.names import distinct_names
from watchdogd.config.values import (
    DEFAULT_CONTROL_SOCKET,
    DEFAULT_PATH,
    DEFAULT_STATE_DIR,
    Budget,
    Cause,
    Config,
    DeploymentConfig,
    HistoryConfig,
    Idle,
    InstanceConfig,
    Mode,
    PolicyConfig,
)

__all__ = [
    "DEFAULT_CONTROL_SOCKET",
    "DEFAULT_PATH",
    "DEFAULT_STATE_DIR",
    "Budget",
    "Cause",
    "Config",
    "ConfigError",
    "ConfigUnreadable",
    "DeploymentConfig",
    "HistoryConfig",
    "Idle",
    "InstanceConfig",
    "Mode",
    "PolicyConfig",
    "distinct_names",
    "format_duration",
    "found_instance",
    "load",
    "parse_duration",
    "places",
]
