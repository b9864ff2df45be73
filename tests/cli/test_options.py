"""What holds for the options of every command."""

import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from typing import Any, get_type_hints

import pytest
from typer.models import OptionInfo

import elir_deploy.cli

COMMANDS = ["bench", "build", "compare", "eval", "export", "inspect", "restore", "train", "video"]


def options_of(module: object) -> Iterator[tuple[str, OptionInfo]]:
    for function in vars(module).values():
        if not inspect.isfunction(function) or function.__module__ != module.__name__:
            continue
        try:
            hints: dict[str, Any] = get_type_hints(function, include_extras=True)
        except NameError:  # types for type checkers alone, which no command has
            continue
        for name, hint in hints.items():
            for option in getattr(hint, "__metadata__", ()):
                if isinstance(option, OptionInfo):
                    yield name, option


def test_every_command_is_here() -> None:
    modules = {module.name for module in pkgutil.iter_modules(elir_deploy.cli.__path__)}
    assert modules >= set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_no_metavar_is_the_options_name(command: str) -> None:
    """Typer 0.27 takes such an option for a positional argument of that name."""
    options = list(options_of(importlib.import_module(f"elir_deploy.cli.{command}")))
    assert options
    assert not [name for name, option in options if (option.metavar or "").lower() == name]
