"""Builds simpler._native: the C library in native/ behind a cffi API-mode module."""
