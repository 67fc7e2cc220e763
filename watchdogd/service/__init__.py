"""The running daemon: from a configuration file to the loop, what it remembers, who may ask it, what it may do."""
