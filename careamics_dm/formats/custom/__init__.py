"""Formats of your own."""
