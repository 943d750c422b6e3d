"""The aggregator: ingest, store, API and the signing of policies."""
