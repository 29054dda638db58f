"""Backups in an object store: chunks, packs, index, manifests, leases, retention."""
