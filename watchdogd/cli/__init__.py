"""The command line: one module for the verbs, and one for each that does more than ask the daemon."""
