"""`make bench`: what the watchdog costs on this machine, beside what people use today, measured in one run.

Everything in it is real: mongod, uWSGI, sockets, the other tools, the daemon in a process of its own. It must never
measure an imitation of the code, and leaves no process, no limit and no file behind but the page that it writes.
"""
