"""Load models from their folders."""
