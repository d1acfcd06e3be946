"""vqlab: trains, measures and hands on visual tokenizers.

`vqlab.load(path)` gives a trained tokenizer; everything else is a command, see the README.
"""

import sys

__version__ = "0.1.0"

if sys.argv[:1] == ["-m"]:  # `python -m vqlab.COMMAND` is being imported
    from vqlab.host import interrupts

    interrupts.end_at_once()


def __getattr__(name: str):
    # Imported on use: `import vqlab` starts no accelerator and costs nothing.
    if name in ("load", "Loaded"):
        from vqlab import inference

        return getattr(inference, name)
    raise AttributeError(f"module 'vqlab' has no attribute {name!r}")
