"""One process of two: python steps.py PORT PROCESS FOLDER prints {kind: losses of 50 steps} of meshes.CONFIGS."""

import json
import sys
from pathlib import Path

from jaxbp.devices.processes import join
from tests.support.meshes import CONFIGS, losses, on, session_of

STEPS = 50


def main(port: str, process: str, folder: str) -> None:
    with join(f"localhost:{port}", 2, int(process), {}):
        values = {
            name: losses(*session_of(on(config, 4, 2), Path(folder) / name), STEPS).tolist()
            for name, config in CONFIGS.items()
        }
        print(json.dumps(values))


if __name__ == "__main__":
    main(*sys.argv[1:])
