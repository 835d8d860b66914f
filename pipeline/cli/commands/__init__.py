"""The commands of `densecast`, by subject; `pipeline.cli.main` lists them."""
