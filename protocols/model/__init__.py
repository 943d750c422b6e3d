"""The types that cabinet and centre share, and their validation.

Every type is a frozen `msgspec.Struct`. What crosses the wire is append-only: a new field comes last and has
a default.
"""
