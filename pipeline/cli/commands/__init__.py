"""The commands of `densecast`, by what they are about; `pipeline.cli.main` puts them together."""
