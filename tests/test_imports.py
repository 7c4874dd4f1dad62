"""Imports point down the layers only, and asking for help costs no heavy import."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "genkit"
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}

# the longest prefix decides
LAYERS = {
    "genkit": 0,  # __init__: names only, imported when used
    "genkit.errors": 0,
    "genkit.cache": 0,
    "genkit.config": 0,
    "genkit.files": 0,
    "genkit.library": 0,
    "genkit.tensors": 1,
    "genkit.runtime": 0,
    "genkit.runtime.device": 0,
    "genkit.runtime.manager": 1,
    "genkit.runtime.parallel": 1,
    "genkit.runtime.ranks": 1,
    "genkit.runtime.seeds": 0,
    "genkit.training": 1,
    "genkit.text": 2,
    "genkit.text.config": 0,
    "genkit.text.trainconfig": 0,
    "genkit.text.evalconfig": 0,
    "genkit.text.explainconfig": 0,
    "genkit.text.quantized": 0,
    "genkit.text.compressconfig": 0,
    "genkit.text.classify.config": 0,
    "genkit.text.metrics.config": 0,
    "genkit.text.safety.config": 0,
    "genkit.text.safety.auditconfig": 0,
    "genkit.image": 2,
    "genkit.image.config": 0,
    "genkit.image.lists": 0,
    "genkit.image.directionsconfig": 0,
    "genkit.image.evalconfig": 0,
    "genkit.image.modelconfig": 0,
    "genkit.pipeline": 3,
    "genkit.export": 3,
    "genkit.cli": 4,
    "genkit.__main__": 5,
}
# what is mathematics: torch, their own config and one another
PURE = (
    "genkit.text.models.gpt",
    "genkit.text.models.cache",
    "genkit.text.models.fused",
    "genkit.text.sampling",
    "genkit.text.constraints.badwords",
    "genkit.text.losses",
    "genkit.image.alarms",
    "genkit.image.augment",
    "genkit.image.modelconfig",
    "genkit.image.models.dcgan",
    "genkit.image.models.smoothing",
    "genkit.image.models.networks",
    "genkit.image.models.plus",
    "genkit.image.losses",
    "genkit.image.metrics",
    "genkit.image.verdict",
)
HEAVY = {"torch", "numpy", "rich", "PIL", "transformers", "tokenizers", "safetensors", "torchvision",
         "huggingface_hub", "onnxruntime", "onnx", "av", "chafa"}  # fmt: skip


def layer(module: str) -> int:
    prefix = max((p for p in LAYERS if module == p or module.startswith(p + ".")), key=len)
    if prefix == "genkit" and module != "genkit":
        raise AssertionError(f"{module} has no layer; give it one in LAYERS")
    return LAYERS[prefix]


def imports(module: str, *, inside_functions: bool) -> Iterator[str]:
    """Full names of what a module imports; TYPE_CHECKING blocks do not count."""
    pending: list[ast.AST] = [ast.parse(MODULES[module].read_text())]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.FunctionDef) and not inside_functions:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full in MODULES else node.module or ""
        pending.extend(ast.iter_child_nodes(node))


def ours(names: Iterator[str]) -> list[str]:
    return [name for name in names if name == "genkit" or name.startswith("genkit.")]


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down(module: str) -> None:
    for name in ours(imports(module, inside_functions=True)):
        assert layer(name) <= layer(module), f"{module} imports {name} from above"
        halves = {part for n in (module, name) for part in ("text", "image") if n.startswith(f"genkit.{part}")}
        assert len(halves) < 2, f"{module} imports {name} from the other half"


@pytest.mark.parametrize("module", [m for m in MODULES if layer(m) == 0])
def test_layer_0_needs_the_standard_library_only(module: str) -> None:
    foreign = {name.split(".")[0] for name in imports(module, inside_functions=False)}
    assert foreign - set(sys.stdlib_module_names) <= {"genkit"}


@pytest.mark.parametrize("module", [m for m in MODULES if m.startswith(PURE)])
def test_mathematics_knows_torch_and_its_config_only(module: str) -> None:
    half = ".".join(module.split(".")[:2])
    for name in imports(module, inside_functions=True):
        top = name.split(".")[0]
        allowed = top in sys.stdlib_module_names or top in ("torch", "numpy")
        own = name in (f"{half}.config", "genkit.errors") or name.startswith(PURE)
        assert allowed or own, f"{module} imports {name}"


@pytest.mark.parametrize("module", [m for m in MODULES if m.startswith("genkit.cli")])
def test_commands_import_their_work_when_they_run(module: str) -> None:
    for name in imports(module, inside_functions=False):
        if module == "genkit.cli.ui":
            continue
        if name.startswith("genkit"):
            assert layer(name) == 0 or name.startswith("genkit.cli"), f"{module} imports {name} at once"
        else:
            assert name.split(".")[0] in sys.stdlib_module_names or name.split(".")[0] == "click"


@pytest.mark.parametrize("module", MODULES)
def test_rich_and_transformers_stay_where_they_belong(module: str) -> None:
    if module != "genkit.cli.ui":
        assert not any(n.split(".")[0] == "rich" for n in imports(module, inside_functions=True))
    assert not any(n.split(".")[0] == "transformers" for n in imports(module, inside_functions=False))


COMMANDS = ("text", "chat", "image", "fill", "classify", "explain", "train-text", "train-gan", "train-classifier",
            "eval", "score", "audit", "info", "models", "compress", "export", "doctor", "completion")  # fmt: skip


@pytest.mark.parametrize("args", [["--help"], ["--version"], *([name, "--help"] for name in COMMANDS)], ids=" ".join)
def test_help_imports_nothing_heavy(args: list[str]) -> None:
    program = (
        "import sys; from genkit.cli import entry; code = entry(sys.argv[1:]); "
        "print(code, *{name.split('.')[0] for name in sys.modules}, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program, *args], capture_output=True, text=True, cwd=ROOT)
    code, *modules = done.stderr.split()
    assert code == "0"
    assert not HEAVY & set(modules)
    assert "click" in modules


def test_commands_are_all_covered() -> None:
    from genkit.cli import COMMANDS as TABLE

    assert set(COMMANDS) == set(TABLE)


def test_importing_genkit_imports_no_dependency() -> None:
    program = "import sys, genkit; print(*{name.split('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert not (HEAVY | {"click"}) & set(done.stdout.split())


def test_public_names_are_what_they_say() -> None:
    import genkit
    from genkit.errors import GenkitError

    assert genkit.GenkitError is GenkitError
    assert genkit.load.__module__ == "genkit.pipeline"
    assert set(genkit.__all__) <= set(dir(genkit))
    for name in genkit.__all__:
        assert getattr(genkit, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        genkit.lod  # noqa: B018
