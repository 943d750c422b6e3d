"""The aggregator's database: one writer, many readers."""
