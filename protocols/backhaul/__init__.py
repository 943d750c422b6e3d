"""The way between cabinet and centre: topics, messages, sealed batches, signatures."""
