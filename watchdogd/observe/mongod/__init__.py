"""MongoDB as its heartbeats show it: which members there are, which serve, what was restarted."""
