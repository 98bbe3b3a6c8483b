"""Shows what an OpenAPI document offers, or writes it down: `python -m perdure.connectors.openapi [--list] URL`."""

from perdure.connectors.openapi import main

if __name__ == "__main__":
    main()
