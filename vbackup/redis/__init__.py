"""Redis: the cache beside the pair, which a restore must invalidate."""
