"""`make ask`: questions to several adapters of the store, answered in one batch. One question a line on standard input:

maths: What is 17 + 25?
base: What is 17 + 25?
{"adapter": "korean", "instruction": "Translate.", "input": "Good morning."}
"""

from pipeline.cli.main import script

if __name__ == "__main__":
    raise SystemExit(script("ask"))
