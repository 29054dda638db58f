"""Schedule, hooks, metrics and the status page: vbackup as a daemon."""
