"""What is told: sentences in the journal or on stderr, systemd's notifications, and the status document."""
