"""No call of the package executes data, starts a shell or goes around the size checks."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import medssl

PACKAGE = Path(medssl.__file__).parent

FORBIDDEN = {
    "eval", "exec", "compile", "__import__", "os.system", "os.popen", "subprocess.getoutput",
    "subprocess.getstatusoutput", "pickle.load", "pickle.loads", "pickle.Unpickler", "joblib.load",
    "yaml.load", "yaml.unsafe_load", "yaml.full_load", "yaml.Loader", "yaml.UnsafeLoader",
    "yaml.FullLoader", "torch.jit.load", "marshal.loads", "shelve.open", "tarfile.open",
    "shutil.unpack_archive", "gzip.decompress", "zlib.decompress",
}  # fmt: skip
ONE_DOOR = {
    "nib.load": (),
    "nibabel.load": (),
    "sitk.ReadImage": ("data/images/itk.py",),
    "SimpleITK.ReadImage": (),
    "sitk.ImageFileReader": ("data/images/itk.py",),
    "SimpleITK.ImageFileReader": (),
    "gzip.open": ("data/images/explain.py",),  # reads a fixed number of bytes
    "pydicom.dcmread": ("data/dicom/files.py",),
}
"""Readers that allocate what a file claims, and the files that check the claim first."""
PROCESSES = ("subprocess.run", "subprocess.Popen", "subprocess.check_call", "subprocess.call",
             "subprocess.check_output")  # fmt: skip


def calls(source: str) -> Iterator[tuple[str, ast.Call]]:
    """Yield the dotted name of every call and the call."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def violations(source: str, file: str) -> list[str]:
    found = []
    for name, node in calls(source):
        options = {k.arg: ast.unparse(k.value) for k in node.keywords}
        wrong = (
            name in FORBIDDEN
            or (name in ONE_DOOR and file not in ONE_DOOR[name])
            or (name == "torch.load" and options.get("weights_only") != "True")
            or options.get("shell", "False") != "False"
            or options.get("allow_pickle", "False") != "False"
            # a variable is a list by its annotation; a text or f-string would be a command line
            or (name in PROCESSES and isinstance(node.args[0], ast.Constant | ast.JoinedStr))
        )
        if wrong:
            found.append(f"{file}:{node.lineno}: {ast.unparse(node)[:80]}")
    return found


def test_no_forbidden_call() -> None:
    files = sorted(PACKAGE.rglob("*.py"))
    assert len(files) > 100
    found = [
        line
        for path in files
        for line in violations(
            path.read_text(encoding="utf-8"), path.relative_to(PACKAGE).as_posix()
        )
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "line",
    [
        "eval(text)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path, allow_pickle=True)",
        "yaml.load(text, Loader=yaml.SafeLoader)",
        "subprocess.run('ls', shell=True)",
        "subprocess.run(f'ls {folder}')",
        "nib.load(path)",
        "sitk.ReadImage(str(path))",
        "pickle.loads(raw)",
    ],
)
def test_finds_a_forbidden_call(line: str) -> None:
    assert violations(line, "data/x.py")


@pytest.mark.parametrize(
    "line",
    [
        "torch.load(path, weights_only=True)",
        "np.load(path, allow_pickle=False)",
        "yaml.safe_load(text)",
        "subprocess.run(['ls', folder])",
        "model.eval()",
        "re.compile(pattern)",
    ],
)
def test_leaves_safe_calls(line: str) -> None:
    assert not violations(line, "data/x.py")
