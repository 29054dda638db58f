"""Qdrant: shard streams, points, recovery, offline reading. The only room with its drivers."""
