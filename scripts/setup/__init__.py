"""The set-up of the virtual environment: what `make` checks, chooses and installs. Standard library only."""
