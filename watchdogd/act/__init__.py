"""What changes the world: one byte into one FIFO, SIGKILL of one process that is proven to hang, and nothing else."""
