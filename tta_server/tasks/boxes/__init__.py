"""Tasks that give boxes."""
