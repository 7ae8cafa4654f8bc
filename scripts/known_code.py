"""Write the digests of the functions of transformers that the compiled CPU decoder stands in for.

    python -m pip download --no-deps transformers==5.23.0 -d wheels
    python scripts/known_code.py wheels/*.whl

Add a release only after its tests passed, and after reading what changed in a function whose digest is new.
"""

import sys
import zipfile
from pathlib import Path

from lookahead.hf.compat.fingerprint.known_models import FAMILIES, FUNCTIONS, PARTS
from lookahead.hf.compat.fingerprint.library_code import functions_in

ATTENTION = ("sdpa_attention_forward", "repeat_kv")
TARGET = Path(__file__).parents[1] / "src/lookahead/hf/compat/fingerprint/known_code.py"


def wanted() -> dict[tuple[str, str], str]:
    """Return, by file and qualified name, the name under which a function is known."""
    found: dict[tuple[str, str], str] = {}
    for family in FAMILIES:
        folder = family.lower()
        path = f"transformers/models/{folder}/modeling_{folder}.py"
        found |= {(path, f"{family}{part}.forward"): f"{part}.forward" for part in PARTS}
        found |= {(path, name): name for name in FUNCTIONS}
    found |= {("transformers/integrations/sdpa_attention.py", name): name for name in ATTENTION}
    found["transformers/activations.py", "SiLUActivation.forward"] = "SiLUActivation.forward"
    return found


def main(wheels: list[str]) -> None:
    """Rewrite the table from the wheels."""
    known: dict[str, set[str]] = {name: set() for name in dict.fromkeys(wanted().values())}
    versions = []
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as files:
            versions.append(Path(wheel).name.split("-")[1])
            by_path = {
                path: functions_in(files.read(path).decode())
                for path in dict.fromkeys(p for p, _ in wanted())
            }
        for (path, qualified), name in wanted().items():
            if qualified in by_path[path]:
                known[name].add(by_path[path][qualified])
    versions.sort(key=lambda version: [int(part) for part in version.split(".")])
    lines = [
        '"""Digests of the functions of transformers that the compiled CPU decoder stands in for.',
        "",
        "`scripts/known_code.py` writes this file. A function with another digest is",
        "left to the model's own code.",
        '"""',
        "",
        f'RELEASES = "{versions[0]} to {versions[-1]}"',
        '"""Releases of transformers whose functions were read."""',
        "",
        "KNOWN_CODE: dict[str, frozenset[str]] = {",
    ]
    for name, digests in known.items():
        listed = ", ".join(f'"{digest}"' for digest in sorted(digests))
        lines.append(f'    "{name}": frozenset({{{listed}}}),')
    lines.append("}")
    TARGET.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
