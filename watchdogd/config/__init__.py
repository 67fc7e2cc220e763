"""YAML -> one frozen Config, or every mistake at once with file, line, column, key and the mend."""

from watchdogd.config.durations import format_duration, parse_duration
from watchdogd.config.load import ConfigError, ConfigUnreadable, found_instance, load, places
from watchdogd.config.names import distinct_names
from watchdogd.config.probe_url import ProbeUrl, Scheme, read_probe_url
from watchdogd.config.values import (
    DEFAULT_CONTROL_SOCKET,
    DEFAULT_PATH,
    DEFAULT_STATE_DIR,
    Budget,
    Cause,
    Config,
    DeploymentConfig,
    HealthConfig,
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
    "HealthConfig",
    "HistoryConfig",
    "Idle",
    "InstanceConfig",
    "Mode",
    "PolicyConfig",
    "ProbeUrl",
    "Scheme",
    "distinct_names",
    "format_duration",
    "found_instance",
    "load",
    "parse_duration",
    "places",
    "read_probe_url",
]
