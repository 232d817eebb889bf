from pipeline.model import quiet  # noqa: F401  (before any file here imports the libraries that it silences)
