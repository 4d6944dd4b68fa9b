"""Write `words.csv`: English and German words, labelled A and B.

The words come from Debian's word lists (packages `wamerican` and `wngerman`): those of 4 to 8 lower-case
letters from a to z that are in one of the lists only. SHA-256 of the word decides which are taken, so
that equal lists give equal files.
"""

import csv
import hashlib
import re
import sys
from pathlib import Path

FOLDER = Path("/usr/share/dict")
LISTS = {"A": FOLDER / "american-english", "B": FOLDER / "ngerman"}
PER_LANGUAGE = 300
_WORD = re.compile(r"[a-z]{4,8}")


def read_words(path: Path) -> set[str]:
    """Return all words of a list in lower case; exit with advice if there is no such list."""
    if not path.is_file():
        sys.exit(f"{path} is missing; on Debian or Ubuntu: apt-get install wamerican wngerman")
    return set(path.read_text(encoding="utf-8").splitlines())


def chosen(words: set[str], others: set[str]) -> list[str]:
    """Return `PER_LANGUAGE` words that are not among the others in any spelling of their case."""
    foreign = {word.lower() for word in others}
    own = [word for word in words if _WORD.fullmatch(word) and word not in foreign]
    return sorted(own, key=lambda word: hashlib.sha256(word.encode()).digest())[:PER_LANGUAGE]


def main() -> None:
    """Write the file beside this one."""
    english, german = (read_words(path) for path in LISTS.values())
    rows = [(word, "A") for word in chosen(english, german)]
    rows += [(word, "B") for word in chosen(german, english)]
    with Path(__file__).with_suffix(".csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *rows])


if __name__ == "__main__":
    main()
