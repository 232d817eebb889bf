"""Suri: instruction data in Alpaca form and a LLaMA-class base model in, a merged checkpoint out."""

__version__ = "0.1.0"
