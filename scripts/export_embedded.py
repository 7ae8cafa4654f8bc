"""Write the embedded model as a folder for other systems: `python scripts/export_embedded.py FOLDER`."""

import sys
from pathlib import Path

from lookahead.files import atomic_write
from lookahead.hf.models.loading import load_model


def main() -> None:
    """Write the folder, unless it is there."""
    folder = Path(sys.argv[1])
    if folder.exists():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    model, tokenizer = load_model("embedded", "bfloat16", "cpu")
    with atomic_write(folder) as partial:
        model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)


if __name__ == "__main__":
    main()
