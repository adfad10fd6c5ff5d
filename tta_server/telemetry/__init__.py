"""What happened, as events, and the observers that count them: metrics, statistics, timings of receipts."""
