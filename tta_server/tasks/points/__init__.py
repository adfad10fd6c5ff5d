"""Tasks that give named points."""
