"""The machine that a command runs on: flags and logs, other processes, locks, memory."""
