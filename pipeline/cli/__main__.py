"""`python -m pipeline.cli`: the `densecast` command."""

from pipeline.cli.main import main

if __name__ == "__main__":
    main()
