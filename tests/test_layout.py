"""The house's rules, checked from the source: imports look down, files stay small."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parent.parent / "vqlab"
FILES = sorted(ROOT.rglob("*.py"))

# Each layer and what it may import of vqlab, beside itself.
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
}
CONFIG_READERS = {
    "build.py",
    "cli.py",
    "estimate.py",
    "evals.py",
    "evaluate.py",
    "main.py",
    "methods.py",
    "plan.py",
    "precompute.py",
    "results.py",
    "resuming.py",
    "tokenize.py",
    "workdir.py",
}


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


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_layer_imports_only_what_lies_below(path):
    parts = path.relative_to(ROOT).parts
    for module, _ in imports(path):
        names = module.split(".")
        if names[0] != "vqlab" or len(parts) == 1:
            continue
        layer = parts[0]
        assert names[1] in BELOW[layer] | {layer}, f"{layer} must not import {module}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_are_one_idea_and_functions_fit_a_screen(path):
    text = path.read_text()
    assert text.count("\n") <= 400
    assert path.name != "utils.py"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < 60, node.name


def test_torch_is_imported_by_its_files_writer_alone_and_only_when_called():
    users = {
        (path.relative_to(ROOT).as_posix(), inside)
        for path in FILES
        for module, inside in imports(path)
        if module.split(".")[0] == "torch"
    }
    assert users == {("export/torch_file.py", True)}


def test_tensorflow_is_imported_nowhere():
    assert not [p for p in FILES for m, _ in imports(p) if m.split(".")[0] == "tensorflow"]


def test_only_the_top_sees_configs():
    users = {
        path.name for path in FILES for module, _ in imports(path) if "ml_collections" in module
    }
    assert users <= CONFIG_READERS
