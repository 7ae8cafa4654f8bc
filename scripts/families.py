"""Probe a tiny random model of every family: is it verified in trees, in chains, or decoded in plain steps?

python scripts/families.py --json families.json

Windows and chunks of these models are 8 tokens long, so the probe's drafts cross them.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # research is not in the wheel

from research.families.table import main

if __name__ == "__main__":
    main()
