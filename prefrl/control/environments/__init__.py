"""Gymnasium environments of numbers, many side by side."""
