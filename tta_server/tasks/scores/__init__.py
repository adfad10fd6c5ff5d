"""Tasks that give scores of classes or labels."""
