"""The cleaning rules: `rule.py` lists and applies them, each other file has the rules on one topic.

Each file: the patterns, then the rules, then their helpers. The docstring of a rule: what it finds (this line is shown
in reports); what it does and its exceptions; `Misses:` what it does not find; `Source:`.
"""
