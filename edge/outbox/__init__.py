"""What was taken and is not yet at the centre.

A reading is *taken* when its batch is committed here. Readings gather per stream in memory until a batch
is sealed; the thread of the database then numbers, seals and commits everything that waits in one
transaction, so that a storm shares its commits. A batch leaves only when the centre acknowledges it, and that
deletion rides on a later write.

    loop thread                                database thread
    add(sample) ── seal ──► queue ───────────► number, encode, INSERT, COMMIT ──► on_committed(batches)
    acknowledge(marks) ───► queue ───────────► DELETE in the next transaction

The buffer is bounded: when it is full the lowest class gives way, oldest first; its floor rises and what was
dropped is counted and reported.
"""
