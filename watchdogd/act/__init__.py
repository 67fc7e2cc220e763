"""What changes the world: one byte into one FIFO. Nothing else in mongo-watchdog acts on anything."""
