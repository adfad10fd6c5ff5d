"""Views and policies as values: geometry, colour, presets, guarantees. Pure."""
