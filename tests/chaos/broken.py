"""The product, broken on purpose, to see that the run notices: `CHAOS_BROKEN=… make chaos`.

The product itself has no such switch: what is wrong is planted here, in the process that then becomes the product.

    python -m tests.chaos.broken KIND edge|central ARGUMENTS…
"""

KINDS: dict[str, str] = {}
