"""Offline scoring: many images into a folder of shards, each exactly once, resumable."""
