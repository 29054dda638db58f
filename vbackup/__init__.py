"""vbackup: PostgreSQL + Qdrant, restorable as one."""

__version__ = "0.1.0"
