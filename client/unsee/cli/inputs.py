"""What is typed -> what the client takes; a wrong value is an error that names its option."""

from pathlib import Path

from unsee.applying import AdapterSchedule, Guard
from unsee.client import Client
from unsee.errors import InvalidArgumentError


def resolved(client: Client, text: str) -> tuple[str, float]:
    """Return the name and the weight that ``no-cat:0.8`` or ``no-cat.safetensors`` stands for; a file is imported."""
    if is_adapter_file(Path(text)):
        return client.import_adapter(text).digest, 1.0
    name, weight = text, 1.0
    head, _, tail = text.rpartition(":")
    if (head and not text.startswith("sha256:")) or head.startswith("sha256:"):
        try:
            name, weight = head, float(tail)
        except ValueError:
            raise InvalidArgumentError.of(
                "--adapter", f"got the weight {tail!r}, allowed a number in [-2, 2]"
            ) from None
    return client.import_adapter(name).digest if is_adapter_file(Path(name)) else name, weight


def schedule_of(text: str | None) -> AdapterSchedule | None:
    """Return the schedule that ``START:END`` or ``START:END:RAMP`` stands for."""
    if text is None:
        return None
    parts = [_number(part) for part in text.split(":")]
    if len(parts) not in (2, 3) or any(part is None or isinstance(part, bool) for part in parts):
        message = f"got {text!r}, allowed START:END or START:END:RAMP, shares of the steps"
        raise InvalidArgumentError.of("--adapter-schedule", message)
    return AdapterSchedule(*(float(part) for part in parts if part is not None))


def guard_of(scale: float | None, words: list[str] | None) -> Guard | None:
    """Return the guard that ``--guard`` and ``--guard-word`` stand for."""
    if scale is None and words:
        raise InvalidArgumentError.of("--guard-word", "got one without --guard, allowed together with a scale")
    return None if scale is None else Guard(scale, tuple(words or ()))


def is_adapter_file(path: Path) -> bool:
    """Whether a path is a file, or a folder as peft writes it; a folder of another kind may share an adapter's name."""
    return path.is_file() or (path / "adapter_config.json").is_file()


def check_is_free(path: Path | None, force: bool, *, option: str = "--output") -> None:
    """Raise InvalidArgumentError if something is there that must not be overwritten."""
    if path is not None and path.exists() and not force:
        raise InvalidArgumentError.of(option, f"{path} exists; --force overwrites it")


def check_writable(path: Path | None, force: bool, *, option: str = "--output") -> None:
    """Raise InvalidArgumentError if a file cannot be put there: its folder is not there, or it must stay."""
    if path is not None and not path.resolve().parent.is_dir():
        raise InvalidArgumentError.of(option, f"{path} cannot be written: there is no such folder")
    check_is_free(path, force, option=option)


def made_folder(path: Path, *, option: str = "--output") -> None:
    """Make a folder unless it is there."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidArgumentError.of(option, f"{path} cannot be made: {error.strerror}") from error


def labels_of(texts: list[str] | None) -> dict[str, str]:
    """Return the labels that ``KEY=VALUE`` texts stand for."""
    for text in texts or []:
        if "=" not in text:
            raise InvalidArgumentError.of("--label", f"got {text!r}, allowed KEY=VALUE")
    return dict(text.split("=", 1) for text in texts or [])


def options_of(texts: list[str] | None) -> dict[str, int | float | bool]:
    """Return the options of a method that ``NAME=VALUE`` texts stand for."""
    options: dict[str, int | float | bool] = {}
    for text in texts or []:
        name, _, value = text.partition("=")
        number = _number(value)
        if not name or number is None:
            raise InvalidArgumentError.of("--option", f"got {text!r}, allowed NAME=VALUE with a number, true or false")
        options[name] = number
    return options


def _number(text: str) -> int | float | bool | None:
    if text in ("true", "false"):
        return text == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return None
