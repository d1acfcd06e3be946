"""The house's rules, checked from the source: imports look down, files stay small."""

import ast
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parent.parent / "vqlab"
FILES = sorted(ROOT.rglob("*.py"))

# Each layer and what it may import of vqlab, beside itself and `vqlab.registry`.
BELOW = {
    "ops": set(),
    "diffusion": {"ops"},
    "nn": {"ops"},
    "models": {"ops", "nn", "diffusion"},
    "training": {"ops", "nn", "models", "diffusion"},
    "evaluation": {"ops", "nn", "models", "diffusion"},
    "export": {"ops", "nn", "models"},
    "data": set(),
    "planning": set(),
    "host": set(),
}
BELOW["runs"] = {*BELOW, "inference", "generation"} - {"host"}
# Files beside the layers, in the order in which they stand on one another.
TOP = {
    "registry": set(),
    "generation": {"ops", "models"},
    "inference": {"diffusion", "ops", "models", "export", "runs", "generation"},
    "__init__": {"inference", "host"},
}
COMMANDS = {"convert", "evaluate", "generate", "main", "plan", "study", "tokenize"}
CONFIG_READERS = re.compile(
    r"(runs/[\w/]+|host/cli|convert|evaluate|generate|main|plan|study|tokenize)\.py"
)
# Questions that a method has to answer itself.
SWITCHES = re.compile(
    r"isinstance\([^)]*(Semanticist|Tokenizer|Quantizer|Codec|Generator|Bottleneck|Evaluator)"
    r'|\["name"\] ==|\.name ==|"codebook_size" in'
)


def imports(path):
    """(module, is inside a function) of every import statement."""
    tree = ast.parse(path.read_text())
    inside = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, id(node) in inside
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield f"{node.module}.{alias.name}", id(node) in inside


def own_imports(path):
    """The parts of vqlab that a file imports: layers, and files beside them."""
    for module, _ in imports(path):
        names = module.split(".")
        if names[0] == "vqlab" and len(names) > 1:
            yield names[1]


def test_imports_look_down():
    wrong = []
    for path in FILES:
        first, *rest = path.relative_to(ROOT).with_suffix("").parts
        if first in COMMANDS:
            continue  # nothing stands on them, see below
        allowed = (BELOW[first] if rest else TOP[first]) | {first, "registry"}
        wrong += [(path.name, name) for name in own_imports(path) if name not in allowed]
    assert not wrong
    assert {path.stem for path in ROOT.glob("*.py")} == COMMANDS | TOP.keys()
    assert not [path for path in FILES if COMMANDS & set(own_imports(path))]


def test_files_are_one_idea_and_functions_fit_a_screen():
    for path in FILES:
        text = path.read_text()
        assert text.count("\n") <= 400, path
        assert path.name != "utils.py"
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno < 60, (path, node.name)


def test_nothing_asks_for_a_method_by_type_by_name_or_by_key():
    asked = [
        (path.relative_to(ROOT).as_posix(), number)
        for path in FILES
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if SWITCHES.search(line)
    ]
    # A chip of planning, and the names of players in losses, are no methods.
    assert {name for name, _ in asked} <= {"planning/chips.py", "planning/topologies.py"}, asked


@pytest.mark.parametrize(
    ("library", "user"),
    [("torch", "export/torch_file.py"), ("huggingface_hub", "export/hub.py")],
)
def test_what_few_need_is_imported_by_one_file_alone_and_only_when_called(library, user):
    users = {
        (path.relative_to(ROOT).as_posix(), inside)
        for path in FILES
        for module, inside in imports(path)
        if module.split(".")[0] == library
    }
    assert users == {(user, True)}


def test_tensorflow_is_imported_nowhere():
    assert not [p for p in FILES for m, _ in imports(p) if m.split(".")[0] == "tensorflow"]


def test_only_runs_and_commands_see_configs():
    users = {
        path.relative_to(ROOT).as_posix()
        for path in FILES
        for module, _ in imports(path)
        if "ml_collections" in module
    }
    assert not [name for name in users if not CONFIG_READERS.fullmatch(name)]
