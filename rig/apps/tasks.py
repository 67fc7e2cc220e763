"""The app of web.py beside a mule or a spooler: `/task` hands a task over, and does not touch MongoDB itself.

A task is one real query, by the client of its own process, and a line in `tasks.log` of the folder that uWSGI was
started in: the pid of who did it, and `good` or the driver's error. To be given as `wsgi-file`, and to a mule as its
program (`mule = tasks.py`) as well. It runs inside uWSGI, without the rig, and must not import it.
"""

import os
import sys
from pathlib import Path

import uwsgi

sys.path.insert(0, str(Path(__file__).parent))
import web  # type: ignore[import-not-found]  # in a fork it is the master's: its client with it

LOG = Path.cwd() / "tasks.log"
application = web.application


def task(_: object = None) -> int:
    """Do one. A spooler takes the answer: the task is done with, good or not."""
    try:
        web.client().shop.items.find_one({"_id": "ready"})
        outcome = "good"
    except Exception as error:  # noqa: BLE001 - whatever the driver raises is what became of the task
        outcome = type(error).__name__
    with LOG.open("a") as log:
        log.write(f"{os.getpid()} {outcome}\n")
    return int(uwsgi.SPOOL_OK)


def hand_over() -> str:
    """Give one to the mule, or to the spooler where there is one."""
    if "spooler" in uwsgi.opt:
        uwsgi.spool({b"task": b"one"})
    else:
        uwsgi.mule_msg(b"task")
    return "ok\n"


if uwsgi.mule_id():
    while True:
        uwsgi.mule_get_msg()
        task()
uwsgi.spooler = task
application.add_url_rule("/task", view_func=hand_over)
