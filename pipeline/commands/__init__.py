"""The commands of `densecast`, by what they are about; `pipeline.cli` puts them together."""
