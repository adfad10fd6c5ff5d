"""Models as people export them: random weights of the libraries' own code, their usual exporter and side files."""
