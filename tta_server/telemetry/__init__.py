"""What happened, as metrics, statistics, logs and timings."""
