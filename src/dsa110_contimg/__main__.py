"""Entry point of ``python -m dsa110_contimg``."""

from .cli import main

if __name__ == "__main__":
    raise SystemExit(main())
