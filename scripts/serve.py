"""`make serve`: a server with OpenAI's API over base, export and stored adapters."""

from pipeline.cli.main import script

if __name__ == "__main__":
    raise SystemExit(script("serve"))
