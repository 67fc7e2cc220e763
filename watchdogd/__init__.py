"""mongo-watchdog: reloads uWSGI instances that stay stuck on dead connections after a restart of MongoDB."""

__version__ = "0.1.0"
