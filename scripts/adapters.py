"""`make adapters`: the store of adapters, many tasks on one base.

python -m scripts.adapters                 all adapters
python -m scripts.adapters show NAME       one adapter's record
python -m scripts.adapters remove NAME
python -m scripts.adapters keep NAME --config FILE [--replace] [key=value ...]      a run's adapter into the store
python -m scripts.adapters measure NAME --config FILE [key=value ...]               on the run's held-out rows
python -m scripts.adapters combine NAME A=0.7 B=0.3 [--how cat|svd|ties|dare] [--rank N] [--density D] [--replace]
"""

from pipeline.cli.main import script

if __name__ == "__main__":
    raise SystemExit(script("adapters"))
