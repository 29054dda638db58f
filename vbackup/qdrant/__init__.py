"""Qdrant: shard streams out, shard uploads in, points live and offline.

`source.QdrantSource` and `target.QdrantTarget` fulfil the ports, `offline.open_offline` reads
shard snapshots without a server; everything else here serves them. Where this room is careful,
the module that is says what real servers (1.16.3, 1.17.0) were seen to do.
"""
