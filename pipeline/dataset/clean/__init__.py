"""The cleaning rules: `rule.py` lists and applies them, every other file holds the rules about one thing."""
