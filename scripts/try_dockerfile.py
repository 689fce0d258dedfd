#!/usr/bin/env python3
"""Runs the Dockerfile's steps without a container engine, then starts the server in what came out. Needs root.

Every stage is a throwaway overlay of this machine's file system, whose Python stands for the base image. Cache mounts
and LABEL are not tried. The server runs as the image's user on a read-only root, until its HEALTHCHECK passes.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WORK = Path("/mnt")
INHERITED = re.compile(r"PIP_.*|SSL_.*|.*_proxy", re.IGNORECASE)
PATH = f"{sys.base_prefix}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
HEALTHY_S = 300


@dataclass
class Stage:
    """A stage of the Dockerfile: its layers, from the oldest; and what later instructions of it see."""

    layers: list[Path] = field(default_factory=list)
    root: Path = Path()
    env: dict[str, str] = field(default_factory=dict)
    args: dict[str, str] = field(default_factory=dict)
    folder: str = "/"
    user: str = "0:0"
    health: list[str] = field(default_factory=list)
    entrypoint: list[str] = field(default_factory=list)


StageOf = Callable[[str], Stage]


def main() -> None:
    """Build the last stage, and run it; exit with 0 if it became healthy and ended cleanly."""
    args = parse_args()
    if "UNSEE_TRY_IN_NAMESPACE" not in os.environ:
        os.environ["UNSEE_TRY_IN_NAMESPACE"] = "yes"
        os.execvp("unshare", ["unshare", "--mount", sys.executable, *sys.argv])  # noqa: S606 - mounts vanish with it
    mount("tmpfs", WORK, "tmpfs", "size=8g")
    stage = build(dict(text.split("=", 1) for text in args.build_arg))
    run(stage, args.model)


def parse_args() -> argparse.Namespace:
    """Return the build arguments, and the model to mount."""
    parser = argparse.ArgumentParser(description="Run the Dockerfile's steps without a container engine.")
    parser.add_argument("--build-arg", action="append", default=[], metavar="NAME=VALUE", help="as docker build's")
    parser.add_argument("--model", type=Path, help="folder to mount at /model, for --build-arg MODEL=mounted")
    return parser.parse_args()


def mount(source: str, target: Path, kind: str, options: str) -> None:
    """Mount a file system."""
    subprocess.run(["mount", "-t", kind, "-o", options, source, str(target)], check=True)


def build(build_args: dict[str, str]) -> Stage:
    """Run the instructions of the last stage and of those that it needs, and return it."""
    sections = read_sections()
    defaults = dict(text.split("=", 1) for word, text in sections.pop("") if word == "ARG")
    constants = defaults | {name: value for name, value in build_args.items() if name in defaults}
    built: dict[str, Stage] = {}

    def stage_of(name: str) -> Stage:
        if name not in built:
            (_, first), *rest = sections[name]
            base = expand(first.split(" AS ")[0], constants)
            print(f"== {name}, from {base}", flush=True)
            parent = stage_of(base) if base in sections else Stage()
            built[name] = derive(parent, name)
            for word, text in rest:
                step(built[name], word, text, build_args, stage_of)
        return built[name]

    return stage_of(list(sections)[-1])


def read_sections() -> dict[str, list[tuple[str, str]]]:
    """Return the instructions of each stage, by its name; those before the first stage under the empty name."""
    lines = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if not line.startswith("#")]
    sections: dict[str, list[tuple[str, str]]] = {"": []}
    name = ""
    for line in re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines():
        if line:
            word, _, text = line.partition(" ")
            name = text.split(" AS ")[1] if word == "FROM" else name
            sections.setdefault(name, []).append((word, text.strip()))
    return sections


def derive(parent: Stage, name: str) -> Stage:
    """Return a stage that begins as ``parent`` is, with a layer of its own."""
    layer, scratch, root = (WORK / name / part for part in ("layer", "scratch", "root"))
    for folder in (layer, scratch, root):
        folder.mkdir(parents=True)
    below = ":".join([*map(str, reversed(parent.layers)), "/"])
    mount("overlay", root, "overlay", f"lowerdir={below},upperdir={layer},workdir={scratch}")
    for kernel in ("proc", "dev"):
        subprocess.run(["mount", "--rbind", f"/{kernel}", str(root / kernel)], check=True)
    for ancestor in Path(sys.base_prefix).parents:  # the image's user has to reach this machine's Python
        reached = root / str(ancestor).lstrip("/")
        reached.chmod(reached.stat().st_mode | 0o111)
    return Stage([*parent.layers, layer], root, dict(parent.env), {}, parent.folder, parent.user)


def step(stage: Stage, word: str, text: str, build_args: dict[str, str], stage_of: StageOf) -> None:
    """Do what one instruction says."""
    known = {"PATH": PATH} | stage.args | stage.env
    match word:
        case "ARG":
            name, _, default = text.partition("=")
            stage.args[name] = build_args.get(name, default)
        case "ENV":
            stage.env |= {name: expand(value, known) for name, value in re.findall(r"(\w+)=(\S+)", text)}
        case "WORKDIR":
            stage.folder = text
            (stage.root / text.lstrip("/")).mkdir(parents=True, exist_ok=True)
        case "COPY":
            copy(stage, expand(text, known).split(), stage_of)
        case "RUN":
            command = re.sub(r"^(--\S+\s+)+", "", text)
            print(f"RUN {command}", flush=True)
            subprocess.run(inside(stage, ["/bin/sh", "-c", command]), env=environment(stage), check=True)
        case "USER":
            stage.user = text
        case "HEALTHCHECK":
            stage.health = json.loads(text.partition(" CMD ")[2])
        case "ENTRYPOINT":
            stage.entrypoint = json.loads(text)
        case "LABEL" | "EXPOSE" | "STOPSIGNAL":
            pass
        case _:
            sys.exit(f"{word}: not among the instructions that are tried here")


def copy(stage: Stage, words: list[str], stage_of: StageOf) -> None:
    """Copy from the build's context, as .dockerignore leaves it, or from another stage."""
    source = ROOT
    allowed = None
    if words[0].startswith("--from="):
        source = stage_of(words.pop(0).removeprefix("--from=")).root
    else:
        allowed = re.findall(r"^!(\S+)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE)
    target = stage.root / os.path.normpath(f"{stage.folder}/{words[-1]}").lstrip("/")
    for name in words[:-1]:
        if allowed is not None and name.split("/")[0] not in allowed:
            sys.exit(f"COPY {name}: .dockerignore keeps it out of the context")
        path = source / name.lstrip("/")
        print(f"COPY {name}", flush=True)
        if path.is_dir():
            ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
            shutil.copytree(path, target, symlinks=True, dirs_exist_ok=True, ignore=ignore)
        else:
            shutil.copy2(path, target)


def expand(text: str, values: dict[str, str]) -> str:
    """Return ``text`` with ``$NAME`` and ``${NAME}`` filled in."""
    return re.sub(r"\$\{?(\w+)\}?", lambda found: values[found[1]], text)


def environment(stage: Stage) -> dict[str, str]:
    """Return what a RUN sees: the stage's own, and how this machine reaches the package index."""
    inherited = {name: value for name, value in os.environ.items() if INHERITED.fullmatch(name)}
    return inherited | {"PATH": PATH, "HOME": "/root"} | stage.args | stage.env


def inside(stage: Stage, command: list[str]) -> list[str]:
    """Return ``command`` as it runs in the stage, in its folder and as its user."""
    enter = ["chroot", f"--userspec={stage.user}", "--groups=", str(stage.root)]
    return [*enter, "/bin/sh", "-c", f'cd {stage.folder} && exec "$@"', "sh", *command]


def run(stage: Stage, model: Path | None) -> None:
    """Start the server as the image would be with a read-only root; stop it when it is healthy."""
    if model is not None:
        subprocess.run(["mount", "--bind", str(model), str(stage.root / "model")], check=True)
    user, group = stage.user.split(":")
    for folder in ("tmp", "store", "cache"):
        mount("tmpfs", stage.root / folder, "tmpfs", f"uid={user},gid={group}")
    subprocess.run(["mount", "-o", "remount,ro", str(stage.root)], check=True)
    env = {"PATH": PATH} | stage.env | {"UNSEE_PORT": "0", "UNSEE_METRICS_PORT": "0", "UNSEE_HEALTH_PORT": "58052"}
    began = time.monotonic()
    server = subprocess.Popen(inside(stage, [*stage.entrypoint, "--insecure-no-auth"]), env=env)
    try:
        while subprocess.run(inside(stage, stage.health), env=env, stderr=subprocess.DEVNULL, check=False).returncode:
            if server.poll() is not None or time.monotonic() - began > HEALTHY_S:
                sys.exit(f"not healthy after {time.monotonic() - began:.0f} s")
            time.sleep(1)
        print(f"healthy after {time.monotonic() - began:.0f} s", flush=True)
    finally:
        server.terminate()
        status = server.wait(timeout=60)
    print(f"ended with {status}")
    sys.exit(status)


if __name__ == "__main__":
    main()
