"""Plain values that every room shares. No input or output, no drivers."""
