"""One process of a run that is to be killed: python killed.py CONFIG.json FOLDER POINT COUNT

SIGKILL at the COUNT-th time that POINT is reached; with COUNT 0 the run goes to its end. Points: "begun", "arrays",
"manifest" and "renamed" within the writing of a checkpoint, "call" and "evaluated" in the loop; "half" is a kill while
orbax has written some of its files.
"""

import json
import os
import signal
import sys
from pathlib import Path

from jaxbp.config import from_json
from jaxbp.train import checkpoint, loop


def main(config: str, folder: str, point: str, count: str) -> None:
    reached: list[str] = []

    def note(here: str) -> None:
        reached.append(here)
        if reached.count(point) == int(count) and here == point:
            os.kill(os.getpid(), signal.SIGKILL)

    def half(path: Path, tree: object) -> None:
        save(path, tree)
        for file in sorted(path.rglob("*"))[::2]:
            if file.is_file():
                file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
        note("half")
        raise AssertionError("the kill comes before")

    save = checkpoint.save_arrays
    checkpoint.reached = loop.reached = note
    if point == "half":
        saves: list[object] = []

        def sometimes(path: Path, tree: object) -> None:
            saves.append(path)
            note("half") if len(saves) < int(count) else None
            (half if len(saves) == int(count) else save)(path, tree)

        checkpoint.save_arrays = sometimes
    loop.train(from_json(json.loads(Path(config).read_text())), Path(folder))


if __name__ == "__main__":
    main(*sys.argv[1:])
