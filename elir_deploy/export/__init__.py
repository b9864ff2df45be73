"""Model to verified bundle: ``pipeline.export_bundle`` and the steps it takes, a module each."""
