"""An import goes down only: this is the list of layers, lowest first."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "dselect"
LAYERS = [
    {"errors"},
    {"kernels"},
    {"models"},
    {"selection", "ordering", "mixing", "search", "draws", "sketch"},
    {"records"},
    {"choice", "ranking"},
    {"engine", "cluster"},
    {"pool"},
    {"pipeline"},
    {"sampling"},
    {"fitting", "classifiers", "importance", "embedding", "near_duplicates", "refinement", "picking"},
    {"judging", "mixtures"},
    {"options", "console"},
    {"reporting", "calling"},
    {"commands"},
    {"cli"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path.name not in ("__init__.py", "__main__.py"))
HEAVY = {
    "typer": {"cli", "options"},
    "rich": {"console"},
    "ray": {"cluster"},
    "matplotlib": {"reporting"},
}
NOT_FOR_HELP = {
    *("numba", "sklearn", "scipy", "threadpoolctl", "lightgbm", "faiss", "fasttext", "torch", "sentence_transformers"),
    *("matplotlib", "pyarrow", "ray", "rich", "safetensors", "tokenizers", "httpx"),
}


def imports(path):
    """Yield (module, is at the top of the file) of every import."""
    tree = ast.parse(path.read_text("utf-8"))
    top = set(map(id, tree.body))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, id(node) in top
        elif isinstance(node, ast.ImportFrom):
            yield node.module, id(node) in top
            if node.module == "dselect":
                for alias in node.names:
                    yield f"dselect.{alias.name}", id(node) in top


def room(module):
    return module.split(".")[1]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_an_import_goes_down_only(path):
    here = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    for module, _ in imports(path):
        if module.startswith("dselect.") and not module.startswith("dselect.__"):
            there = room(module)
            assert LEVEL[there] <= LEVEL[here], f"{here} imports {there}"
            same_file = module.split(".")[-1] == path.stem
            assert here != "commands" or there != "commands" or same_file, "a command imports another"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_libraries_stay_in_their_room_and_heavy_ones_out_of_the_help(path):
    here = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    for module, at_top in imports(path):
        library = module.split(".")[0]
        assert here in HEAVY.get(library, {here}), f"{library} in {here}"
        assert not (at_top and library in NOT_FOR_HELP and here != "kernels"), f"{library} at the top of {path.name}"


def test_pure_rooms_touch_no_file_clock_or_global_random_state():
    for name in (
        "selection",
        "ordering",
        "sketch",
        "mixing",
        "search",
        "draws",
        "kernels/ngrams",
        "kernels/bags",
        "kernels/vectors",
        "kernels/overlap",
        "kernels/statistics",
        "kernels/repetition",
        "kernels/windows",
        "kernels/sparse",
        "kernels/style",
    ):
        text = (PACKAGE / f"{name}.py").read_text("utf-8")
        assert not {"open(", "time.", "np.random", "import random"} & set(text.split()), name


def test_every_room_has_a_layer():
    rooms = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in FILES}
    assert rooms <= set(LEVEL)
