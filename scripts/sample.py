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
flags.DEFINE_string("prompt", "\n", "the beginning of the text")
flags.DEFINE_integer("length", 1000, "characters", lower_bound=1)
flags.DEFINE_float(
    "temperature", 0.8, "below 1 favours likely characters, above 1 unlikely ones; 0 takes the likeliest", lower_bound=0
)
flags.DEFINE_integer("seed", 0, "of the draws", lower_bound=0)


def main(words: list[str]) -> int:
    if words:
        raise unknown("option", words[0], ["--run", "--prompt", "--length", "--temperature", "--seed"])
    options = flags.FLAGS
    run = load(options.run)
    if not run.classes or any(len(name) != 1 for name in run.classes):
        raise InputError(f"{options.run} is not a run on text by characters")
    text = options.prompt + sample(
        run.model, run.params, run.classes, options.prompt, options.length, options.temperature, options.seed
    )
    write_whole(Path(options.run) / "sample.txt", text.encode())
    print(text)
    return 0


if __name__ == "__main__":
    cli.run(main)
