"""The bundled models of tta-server: a folder each, as `tta-server serve --models` takes them."""
