"""Links, commands and paths in the documentation: what a page names exists, and what it shows parses."""

from __future__ import annotations

import argparse
import functools
import importlib
import pkgutil
import re
import shlex
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rise_agents.cli.main import COMMANDS

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
#: History: its commands are those of the time.
HISTORY = {"lab_notebook.md", "CHANGELOG.md"}
CURRENT = [page for page in PAGES if page.name not in HISTORY]
Blocks = Callable[[Path], list[tuple[str, str]]]

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
each_current_page = pytest.mark.parametrize("page", CURRENT, ids=lambda page: page.name)


def prose(page: Path) -> str:
    """The page without its fenced code blocks."""
    return re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """Anchors of the headings of a page, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@functools.cache
def parser_of(command: str, name: str = "") -> argparse.ArgumentParser:
    """The real parser of `rise COMMAND`, or of `rise bench NAME`."""
    parser = argparse.ArgumentParser(prog=f"rise {command} {name}".strip(), allow_abbrev=False)
    module = importlib.import_module(COMMANDS[command].module)
    if command == "bench":
        module._add_common_arguments(parser)
        module = importlib.import_module(f"benchmarks.{name}")
    module.add_arguments(parser)
    return parser


def parse(words: list[str]) -> None:
    """Parse what follows `rise`, as the command does.

    Raises:
        SystemExit: If it does not parse.
    """
    if words and words[0] in COMMANDS:
        name = words[1:2] if words[0] == "bench" else []
        parser_of(words[0], *name).parse_args(words[1 + len(name) :])
    elif words not in (["--help"], ["help"]):
        raise SystemExit(f"there is no command {words[:1]}")


def options_of(parser: argparse.ArgumentParser) -> set[str]:
    """Options of a parser and of its sub-parsers."""
    found: set[str] = set()
    for action in parser._actions:
        found.update(action.option_strings)
        if isinstance(action, argparse._SubParsersAction):
            found.update(*map(options_of, action.choices.values()))
    return found


def command_lines(text: str) -> Iterator[list[str]]:
    """Command lines of a code block as words, comments left out and continued lines joined."""
    for line in text.replace("\\\n", " ").splitlines():
        for part in re.split(r"(?:^|\s)#", line)[0].split("; "):
            yield shlex.split(part, comments=True)


def commands_in(text: str) -> Iterator[list[str]]:
    """Commands of a code block as words, without variables before them and without `.venv/bin/`."""
    for line in command_lines(text):
        for words in split(line, "&&"):
            while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                words = words[1:]
            if words:
                yield [words[0].removeprefix(".venv/bin/"), *words[1:]]


def split(words: list[str], separator: str) -> list[list[str]]:
    """Words between separators."""
    parts: list[list[str]] = [[]]
    for word in words:
        parts[-1].append(word) if word != separator else parts.append([])
    return parts


def commands_of(page: Path, code_blocks: Blocks) -> Iterator[list[str]]:
    """All commands that a page shows."""
    for language, text in code_blocks(page.relative_to(ROOT)):
        if language == "bash":
            yield from commands_in(text)


@each_page
def test_links_and_pictures_exist(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = page.parent / name if name else page
        assert file.exists(), f"{page.name} links to {target}"
        if anchor:
            assert anchor in anchors(file), f"{page.name} links to {target}"


@each_current_page
def test_commands_parse(page: Path, code_blocks: Blocks, capsys: pytest.CaptureFixture[str]) -> None:
    for words in commands_of(page, code_blocks):
        if words[0] == "rise":
            try:
                parse(words[1:])
            except SystemExit as error:
                pytest.fail(f"{page.name}: {shlex.join(words)}: {error} {capsys.readouterr().err}")


#: Commands of others that nothing checks here, and why.
UNCHECKED = {
    "bash": "a script of the vendor's",
    "export": "an address of one's own",
    "hf": "asks for a token",
    "lerobot-eval": "takes half a minute to parse; tests/rise_agents/policies/test_lerobot_eval.py runs it",
    "lerobot-train": "likewise; tests/docs/test_lerobot.py compares its options with the task",
    "ray": "starts a cluster",
    "roslaunch": "files of the vendor's",
    "rostopic": "needs a master; tests/rise_robot/ros run it",
    "tensorboard": "a server",
}


def check_command(words: list[str]) -> None:
    """Check a command that is not ours against its own parser, or that what it names is there.

    Raises:
        SystemExit: If it does not parse.
    """
    name, arguments = words[0], words[1:]
    if name == "accelerate":
        from accelerate.commands.launch import launch_command_parser

        launched = launch_command_parser().parse_args(arguments[1:])
        assert (launched.module, launched.training_script) == (True, "rise_agents.cli.main")
        parse(launched.training_script_args)
    elif name in ("uv", "pip"):
        project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        extras = re.findall(r"\[([\w,]+)\]", " ".join(arguments))
        assert {one for some in extras for one in some.split(",")} <= set(project["optional-dependencies"])
        assert all((ROOT / word).exists() for word in arguments if re.match(r"\w+/", word))
    elif name == "python":
        assert (ROOT / arguments[0]).is_file()
    elif name not in ("make", "rise"):  # these two have tests of their own
        assert name in UNCHECKED, f"nothing checks the command {name!r}"


@each_current_page
def test_commands_of_others_are_valid(page: Path, code_blocks: Blocks, capsys: pytest.CaptureFixture[str]) -> None:
    for words in commands_of(page, code_blocks):
        try:
            check_command(words)
        except (AssertionError, SystemExit) as error:
            pytest.fail(f"{page.name}: {shlex.join(words)}: {error} {capsys.readouterr().err}")


@each_current_page
def test_commands_in_sentences_exist(page: Path) -> None:
    for text in re.findall(r"`(?:\.venv/bin/)?rise ([^`]+)`", prose(page)):
        command, *rest = text.split()
        if command in ("...", "COMMAND", "<cmd>"):
            continue
        assert command in COMMANDS, f"{page.name}: `rise {text}`"
        name = rest[:1] if command == "bench" and rest and rest[0].islower() else []
        if command == "bench" and not name:
            continue
        given = {word.partition("=")[0] for word in rest if word.startswith("--")}
        assert given <= options_of(parser_of(command, *name)), f"{page.name}: `rise {text}`"


@each_current_page
def test_modules_and_make_targets_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for name in re.findall(r"python -m (benchmarks\.\w+)", text):
        source = (ROOT / name.replace(".", "/")).with_suffix(".py")
        assert source.is_file(), f"{page.name} runs {name}"
        for line in re.findall(rf"python -m {re.escape(name)}([^\n#`]*)", text):
            for option in re.findall(r"--[\w-]+", line):
                assert f'"{option}"' in source.read_text(encoding="utf-8"), f"{page.name}: {name} {option}"
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"(?:^|`)make ([a-z-]+)", text, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"{page.name}: make {target}"


@each_current_page
def test_paths_in_the_repository_exist(page: Path, code_blocks: Blocks) -> None:
    text = page.read_text(encoding="utf-8")
    trees = "".join(block for language, block in code_blocks(page.relative_to(ROOT)) if not language)
    for name in re.findall(r"(?<![\w/.])((?:configs|tests|benchmarks|rise_\w+)/[\w./-]*\w)(?![\w*<{/-])", text):
        places = (ROOT, ROOT / "tests" / "plugin" / "src", ROOT / "tests" / "plugin" / "src" / "rise_stranger")
        shown = Path(name).name in trees  # a file of the package that the page builds
        assert shown or any((place / name).exists() for place in places), f"{page.name} names {name}"


def test_the_tree_of_the_architecture_is_that_of_the_repository(code_blocks: Blocks) -> None:
    tree = code_blocks(Path("docs/architecture.md"))[0][1]
    for part in re.split(r"^(?=\w)", tree, flags=re.MULTILINE)[1:]:
        folder = ROOT / part.partition("/")[0]
        files = {file.name for file in folder.rglob("*") if file.is_file()}
        assert set(re.findall(r"\w+\.py\b", part)) <= files, folder.name
        if folder.name.startswith("rise_"):
            packages = {file.parent.name for file in folder.glob("*/__init__.py")}
            assert packages <= set(re.findall(r"^  (\w+)/", part, re.MULTILINE)), folder.name


@each_current_page
def test_names_in_python_exist(page: Path) -> None:
    names = re.findall(r"\b(?:rise_env|rise_agents|rise_robot)(?:\.\w+)+", page.read_text(encoding="utf-8"))
    for name in sorted(set(names)):
        if not name.endswith((".py", ".md")):
            assert pkgutil.resolve_name(name) is not None, f"{page.name} names {name}"


@pytest.mark.parametrize("line", ["rise evaluate --polcy base", "rise fly", "rise bench cell --nothing 1"])
def test_wrong_commands_are_found(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    (rise, *words), make = commands_in(f"A=1 .venv/bin/{line}   # comment\nmake demo\n")
    assert (rise, make) == ("rise", ["make", "demo"])
    with pytest.raises(SystemExit):
        parse(words)
    capsys.readouterr()


@pytest.mark.parametrize(
    "line",
    ["uv pip install rise-robotics[rays]", "accelerate launch -m rise_agents.cli.main train dynamics --datas x",
     "python examples/none.py", "rosrun x"],
)  # fmt: skip
def test_wrong_commands_of_others_are_found(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    (words,) = commands_in(line)
    with pytest.raises((AssertionError, SystemExit)):
        check_command(words)
    capsys.readouterr()
