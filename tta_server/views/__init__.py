"""Views and policies as values: geometry, colour, presets. Pure."""
