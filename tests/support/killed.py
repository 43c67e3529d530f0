"""One process of a run that is to be killed: python killed.py CONFIG.json FOLDER POINT COUNT

SIGKILL at the COUNT-th time that POINT is reached; with COUNT 0 the run goes to its end. Points: "begun", "arrays",
"manifest" and "renamed" within the writing of a checkpoint, "call" and "evaluated" in the loop; "half" is a kill while
orbax has written some of its files.
"""

import json
import os
import signal
import sys
from collections import Counter
from pathlib import Path

from jaxbp.config import from_json
from jaxbp.training import checkpoint, loop


def main(config: str, folder: str, point: str, count: str) -> None:
    visits: Counter[str] = Counter()
    save = checkpoint.save_arrays

    def note(here: str) -> None:
        visits[here] += 1
        if here == point and visits[here] == int(count):
            os.kill(os.getpid(), signal.SIGKILL)

    def save_and_spoil(path: Path, tree: object) -> None:
        save(path, tree)
        if point == "half" and visits["half"] == int(count) - 1:
            for file in [file for file in sorted(path.rglob("*")) if file.is_file()][::2]:
                file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
        note("half")

    checkpoint.save_arrays = save_and_spoil
    checkpoint.reached = loop.reached = note
    loop.train(from_json(json.loads(Path(config).read_text())), Path(folder))


if __name__ == "__main__":
    main(*sys.argv[1:])
