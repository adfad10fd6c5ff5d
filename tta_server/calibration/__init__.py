"""Fits to images when a model may stop before its last view."""
