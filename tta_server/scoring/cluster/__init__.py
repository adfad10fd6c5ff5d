"""Shards scored by the actors of a Ray cluster; this process writes them."""
