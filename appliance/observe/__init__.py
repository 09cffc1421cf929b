"""What the processes tell the outside: metrics, logs, readiness; and how they wake each other."""
