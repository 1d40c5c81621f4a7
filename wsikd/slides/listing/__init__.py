"""Which slides a command processes, each of them once."""
