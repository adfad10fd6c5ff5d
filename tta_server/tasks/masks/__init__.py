"""Tasks that give a class or labels for every pixel."""
