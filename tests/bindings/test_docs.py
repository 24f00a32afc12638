"""docs/python.md and docs/library.md: every program on them runs, every command works."""

import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT


def blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```$", (ROOT / page).read_text(), re.S | re.M)


def shell(lines, cwd, **environment):
    """Runs commands as one script that ends at the first that fails, with the programs of this environment (cmake, pkgconf) first."""
    found = {"PATH": f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-ec", "\n".join(lines)], cwd=cwd, capture_output=True, text=True, env={**os.environ, **found, **environment}
    )
    assert done.returncode == 0, f"{lines}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_the_programs_of_the_python_page_run(tmp_path):
    """In their order, as one program, in a folder that has `models`."""
    (tmp_path / "models").symlink_to(ROOT / "models")
    programs = blocks("docs/python.md", "python")
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", "\n".join(programs)], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "perl" and "(2, 12)" in lines and any("sensitivities" in line for line in lines)
    assert lines[-1].startswith("tiny.onnx was not written: the budget of 1000 bytes is below ")
    assert (tmp_path / "small.onnx").stat().st_size <= 500_000
    assert len(programs) == 5


def test_the_readme_of_the_wheel_says_what_the_page_says(tmp_path):
    (tmp_path / "models").symlink_to(ROOT / "models")
    (program,) = blocks("bindings/python/README.md", "python")
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout == "perl\n", done.stderr


def test_the_commands_of_the_python_page_are_those_of_the_tests():
    """scripts/test-bindings has run them to make this environment."""
    (commands,) = blocks("docs/python.md", "sh")
    script = (ROOT / "scripts/test-bindings").read_text()
    assert "scripts/python-wheel" in commands and "scripts/python-wheel" in script
    assert "pip install" in commands and 'pip" install' in script
    shown = shell([commands.splitlines()[-1]], ROOT)
    assert shown.startswith("thimble ")


@pytest.fixture
def place(tmp_path, folder, models):
    """A folder with the page's C program and a model."""
    (source,) = blocks("docs/library.md", "c")
    (tmp_path / "ask.c").write_text(source)
    model = models.export("albert-deb")
    shutil.copy(model, tmp_path / "small.onnx")
    shutil.copy(model.with_name(f"{model.stem}.tokenizer.json"), tmp_path / "small.tokenizer.json")
    return tmp_path


def test_the_commands_of_the_library_page_build_and_run_its_program(place, folder):
    (commands,) = blocks("docs/library.md", "sh")
    # Not built again, and put into the folder of the test.
    lines = [line.split("  #")[0].replace("thimble-c", f"{place}/thimble-c") for line in commands.splitlines()]
    lines = [line.replace("$PWD/", "").replace("scripts/", f"{ROOT}/scripts/") for line in lines]
    said = shell(lines, place, THIMBLE_BIN=str(folder))
    assert [line.split()[0] for line in said.splitlines()] == ["perl", "perl"]
    shown = subprocess.run(["readelf", "-d", place / "ask-static"], capture_output=True, text=True).stdout
    assert "NEEDED" not in shown
    (lines,) = blocks("docs/library.md", "cmake")
    head = "cmake_minimum_required(VERSION 3.16)\nproject(ask C)\nadd_executable(ask ask.c)\n"
    (place / "CMakeLists.txt").write_text(head + lines)
    environment = {"PKG_CONFIG_PATH": f"{place}/thimble-c/lib/pkgconfig"}
    said = shell(["cmake -S . -B built > log", "cmake --build built >> log", "built/ask small.onnx 'Perl module'"], place, **environment)
    assert said.split()[0] == "perl"


def test_the_rust_of_the_library_page_is_that_of_the_example():
    (rust,), (toml,) = blocks("docs/library.md", "rust"), blocks("docs/library.md", "toml")
    package = ROOT / "bindings/rust-example"
    assert rust in (package / "src/main.rs").read_text()
    assert toml in (package / "Cargo.toml").read_text()


def test_the_programs_in_comments_are_programs(tmp_path, folder):
    """The examples at the top of thimble.h and of the Python module."""
    header = (ROOT / "bindings/c/include/thimble.h").read_text()
    example = "\n".join(line.removeprefix(" *     ") for line in header.split("*/")[0].splitlines() if line.startswith(" *     "))
    source = tmp_path / "top.c"
    source.write_text(f'#include "thimble.h"\n#include <stdio.h>\nint main(void)\n{{\n{example}\nreturn 0;\n}}\n')
    include = f"-I{ROOT / 'bindings/c/include'}"
    done = subprocess.run(["gcc", "-std=c99", "-Wall", "-Werror", "-fsyntax-only", include, source], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
