"""Real throwaway servers on this machine: PostgreSQL, Qdrant, S3."""
