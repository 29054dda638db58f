"""The repository: backups as deduplicated, sealed chunks in any object store (docs/format.md)."""
