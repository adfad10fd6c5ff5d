"""Model folders to models."""
