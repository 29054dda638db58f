"""Qdrant: shard streams out, shard uploads in, points live and offline.

`source.QdrantSource` and `target.QdrantTarget` fulfil the ports; everything else here serves
them. What real servers do, and why this room is careful where it is, is in docs/qdrant.md.
"""
