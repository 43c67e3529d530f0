"""Text from a trained language model: python scripts/sample.py --run=FOLDER [--prompt=TEXT] [--temperature=0.8]

Prints it, and writes it to sample.txt in the run folder.
"""

from pathlib import Path

from absl import flags

from jaxbp.commands import cli
from jaxbp.errors import InputError, unknown
from jaxbp.files import write_whole
from jaxbp.train.run import load
from jaxbp.train.sample import sample

flags.DEFINE_string("run", "runs/charlm", "the run folder")
flags.DEFINE_string("prompt", "\n", "how the text begins")
flags.DEFINE_integer("length", 1000, "characters", lower_bound=1)
flags.DEFINE_float(
    "temperature", 0.8, "below 1 likelier characters, above 1 stranger ones; 0 the likeliest each time", lower_bound=0
)
flags.DEFINE_integer("seed", 0, "of the draws", lower_bound=0)


def main(words: list[str]) -> int:
    if words:
        raise unknown("option", words[0], ["--run", "--prompt", "--length", "--temperature", "--seed"])
    given = flags.FLAGS
    loaded = load(given.run)
    if not loaded.classes or any(len(name) != 1 for name in loaded.classes):
        raise InputError(f"{given.run} is not a run on text by characters")
    text = given.prompt + sample(
        loaded.model, loaded.params, loaded.classes, given.prompt, given.length, given.temperature, given.seed
    )
    write_whole(Path(given.run) / "sample.txt", text.encode())
    print(text)
    return 0


if __name__ == "__main__":
    cli.run(main)
