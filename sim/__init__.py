"""A street on a bench: field hardware played at the wire."""
