"""Field devices behind one narrow contract: the only users of the vendor client libraries."""
