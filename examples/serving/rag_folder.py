"""Answer questions about the text files of a folder; the words of a question choose the file that is read.

python examples/serving/rag_folder.py notes "Who has the keys?" "When does the office open?"
"""

import argparse
import hashlib
import math
import os
import re
from collections import Counter
from pathlib import Path

from openai import OpenAI

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("folder", type=Path)
parser.add_argument("questions", nargs="+")
parser.add_argument("--base-url", default="http://127.0.0.1:8000/v1")
parser.add_argument("--model", default="embedded")
parser.add_argument("--files", type=int, default=1, help="how many files each prompt quotes")
parser.add_argument("--max-tokens", type=int, default=96)
arguments = parser.parse_args()
key = os.environ.get("LOOKAHEAD_API_KEY", "none")


def words(text: str) -> Counter[str]:
    """Return how often a text has each word."""
    return Counter(re.findall(r"\w+", text.lower()))


paths = sorted(path for path in arguments.folder.rglob("*") if path.suffix in (".md", ".txt"))
if not paths:
    parser.error(f"{arguments.folder} has no .md or .txt files")
texts = {path: path.read_text("utf-8") for path in paths}
counts = {path: words(text) for path, text in texts.items()}
files_with = Counter(word for counted in counts.values() for word in counted)


def score(path: Path, question: str) -> float:
    """Return how well a file fits a question (TF-IDF): words count more if few files have them."""
    known = [word for word in words(question) if files_with[word]]
    found = sum(counts[path][word] * math.log(len(paths) / files_with[word]) for word in known)
    return found / math.sqrt(max(1, counts[path].total()))


# A namespace for each folder: answers about one are never drafted for questions about another.
namespace = "folder-" + hashlib.sha256(str(arguments.folder.resolve()).encode()).hexdigest()[:16]

with OpenAI(base_url=arguments.base_url, api_key=key) as client:
    for question in arguments.questions:
        best = sorted(paths, key=lambda path: score(path, question), reverse=True)[: arguments.files]
        # The files come first, in the order of their names: what a prompt has in common with the beginning of
        # an earlier one comes from the prefix cache, so that the model reads a file once.
        quoted = "\n\n".join(texts[path] for path in sorted(best))
        names = ", ".join(path.name for path in sorted(best))
        answer = client.chat.completions.create(
            model=arguments.model,
            messages=[{"role": "user", "content": f"{quoted}\n\nQuestion: {question}"}],
            temperature=0,
            max_tokens=arguments.max_tokens,
            extra_body={"lookahead": {"namespace": namespace}},
        )
        print(f"question: {question}")
        print(f"answer from {names}: {answer.choices[0].message.content}")
        if answer.usage is not None and answer.usage.prompt_tokens_details is not None:
            cached = answer.usage.prompt_tokens_details.cached_tokens
            print(f"{cached} of {answer.usage.prompt_tokens} prompt tokens were in the prefix cache\n")
