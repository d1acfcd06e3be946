"""The README.md of a folder of StableHLO programs."""

from collections.abc import Mapping
from typing import Any

_TEXT = """# {title}, as StableHLO

| | |
|---|---|
{facts}

Runs with jax {jax_version} or later on {platforms}, without vqlab:

```sh
pip install jax flatbuffers safetensors numpy
```

```python
import numpy as np
from load import load  # load.py of this folder

functions = load()
{usage}
```

| function | takes | gives |
|---|---|---|
{rows}

`{any_batch}` is any number, 1 or more; for each number, and each platform, jax compiles a function
once. Give arrays of exactly these dtypes; plain Python numbers are int32, float32 or bool. jax
reads such files for at least six months after the release that wrote them
([compatibility](https://docs.jax.dev/en/latest/export/export.html#compatibility-guarantees)).

`*{suffix}` are written by `jax.export`; `jax.export.deserialize(...).mlir_module_serialized` is the
StableHLO in it, portable bytecode for other compilers. It takes the platform's number in the list
above, if there are several, then those arrays of `model.safetensors`, in the order of their sorted
names, that `module_kept_var_idx` counts, then the arguments of the table.
"""


def write_card(about: Mapping[str, Any], any_batch: str, suffix: str) -> str:
    """The text.

    Args:
      about: what functions.json says, see `vqlab.export.stablehlo`.
      any_batch: what stands for the batch size in shapes.
      suffix: of the programs' files.
    """
    return _TEXT.format(
        title=about["title"],
        facts="\n".join(f"| {name} | {value} |" for name, value in about["facts"].items()),
        jax_version=about["jax_version"],
        platforms=", ".join(about["platforms"]),
        usage="\n".join(said["usage"] for said in about["functions"].values() if said["usage"]),
        rows="\n".join(_row(name, said) for name, said in about["functions"].items()),
        any_batch=any_batch,
        suffix=suffix,
    )


def _row(name: str, said: Mapping[str, Any]) -> str:
    takes = "; ".join(f"`{a['name']}` {_array(a)}: {a['text']}" for a in said["arguments"])
    return f"| `{name}` | {takes} | {said['result']['text']}: {_array(said['result'])} |"


def _array(of: Mapping[str, Any]) -> str:
    return f"{of['dtype']} [{', '.join(map(str, of['shape']))}]" if of["shape"] else of["dtype"]
