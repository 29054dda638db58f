"""Watermark, backup, restore, reconcile, repair, verify: why vbackup exists. Knows ports only."""
