"""The command line: parses, calls, prints."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from testkit.commands import parser as new_parser
from testkit.places import CACHE
from tools.cluster import holder, host, images, programs
from tools.cluster.layout import State, Stop, nodes, output, say

ABOUT = """\
A real Kubernetes on this machine, from source, in network namespaces that nothing leads out of.

  tools/cluster/cluster up --nodes 2
  tools/cluster/cluster run kubectl get nodes
  tools/cluster/cluster load-image dub5 redis my-image.tar
  tools/cluster/cluster down

Needs Linux, root and Go; Debian packages are installed where they are missing. The first `up` builds Kubernetes, about
a quarter of an hour; the next takes seconds. Programs and images are kept in {cache}.
"""


def main() -> None:
    arguments = parser().parse_args()
    try:
        sys.exit(arguments.call(arguments.name, arguments))
    except Stop as reason:
        sys.exit(str(reason))


def parser() -> argparse.ArgumentParser:
    top = new_parser(ABOUT.format(cache=CACHE), prog="cluster")
    top.add_argument(
        "--name", type=State, default="local", help="several clusters can run at a time (default: local)"
    )
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    def add(call: Callable[[State, argparse.Namespace], int | None], what: str) -> argparse.ArgumentParser:
        added: argparse.ArgumentParser = commands.add_parser(call.__name__.replace("_", "-"), help=what)
        added.set_defaults(call=call)
        return added

    tools, made = ", ".join(programs.BY_NAME), ", ".join(images.IMAGES)
    add(build, "build programs without starting anything").add_argument(
        "tools", nargs="*", metavar="TOOL", help=f"of {tools}"
    )
    start = add(up, "start the cluster")
    start.add_argument(
        "--nodes", type=int, default=1, choices=range(1, 4), metavar="N", help="1 to 3 (default: 1)"
    )
    start.add_argument("--hpa-sync", default="15s", help="how often autoscalers look (default: 15s)")
    start.add_argument("--while", dest="owner", type=int, metavar="PID", help="end when this process ends")
    add(down, "stop it and leave nothing behind")
    add(status, "say what runs; exit code 1 if nothing does")
    add(access, "print as JSON what a program needs to use it; exit code 1 if nothing runs")
    add(load_image, "load images into every node").add_argument(
        "images", nargs="+", metavar="IMAGE", help=f"an archive, or of {made}"
    )
    add(image, "make images and print where their archives are").add_argument(
        "images", nargs="+", choices=images.IMAGES, metavar="IMAGE", help=f"of {made}"
    )
    add(run, "run a command in the cluster's network, with its KUBECONFIG and programs").add_argument(
        "words", nargs=argparse.REMAINDER, metavar="COMMAND …"
    )
    return top


def build(_: State, arguments: argparse.Namespace) -> None:
    unknown = set(arguments.tools) - set(programs.BY_NAME)
    if unknown:
        raise Stop(f"No tool is called {', '.join(unknown)}. There are {', '.join(programs.BY_NAME)}.")
    programs.build(arguments.tools or programs.CLUSTER)


def up(state: State, arguments: argparse.Namespace) -> None:
    if holder.running(state):
        raise Stop(f"The cluster {state.name} is running already. Stop it with: tools/cluster/cluster down")
    host.check()
    programs.build(programs.CLUSTER)
    pause = images.archive("pause")
    began = time.monotonic()
    holder.start(state, arguments.nodes, arguments.hpa_sync, arguments.owner)
    load(state, pause)
    say(f"The cluster {state.name} is up: {count_of_nodes(state)} in {time.monotonic() - began:.1f} s.")
    say("Try: tools/cluster/cluster run kubectl get nodes")


def down(state: State, _arguments: argparse.Namespace) -> None:
    say(
        f"The cluster {state.name} is down."
        if holder.stop(state)
        else f"No cluster {state.name} was running."
    )


def status(state: State, _arguments: argparse.Namespace) -> int:
    if not holder.running(state):
        say(f"No cluster {state.name} is running.")
        return 1
    stage = "up" if (state.folder / "ready").exists() else "coming up"
    say(f"The cluster {state.name} is {stage}, {count_of_nodes(state)}.")
    say(f"KUBECONFIG={state.kubeconfig}, logs in {state.logs}")
    ended = state.folder / "ended"
    if ended.exists():
        say(f"Not all is well:\n{ended.read_text()}")
    return int(ended.exists())


def access(state: State, _arguments: argparse.Namespace) -> int:
    """Paths, and what goes before each command: the cluster has a network of its own."""
    if not holder.running(state):
        say(f"No cluster {state.name} is running.")
        return 1
    paths = {name: str(programs.program(name)) for name in ("kubectl", "helm")}
    print(json.dumps({"kubeconfig": str(state.kubeconfig), **paths, "entrance": holder.entrance(state)}))
    return 0


def load_image(state: State, arguments: argparse.Namespace) -> None:
    for name in arguments.images:
        load(state, images.archive(name) if name in images.IMAGES else Path(name))


def image(_: State, arguments: argparse.Namespace) -> None:
    host.check()
    for name in arguments.images:
        print(images.archive(name))


def load(state: State, archive: Path) -> None:
    """Each node has a store of its own."""
    if not archive.is_file():
        raise Stop(f"There is no archive {archive}, and the images made here are {', '.join(images.IMAGES)}.")
    for node in nodes(len(node_folders(state))):
        inside = [
            *holder.entrance(state, mounts=True),
            str(programs.program("ctr")),
            f"--address={node.containerd}",
        ]
        command = [*inside, "--namespace=k8s.io", "images", "import", str(archive.resolve())]
        output(*command, fails=f"{archive} could not be loaded into {node.name}")


def run(state: State, arguments: argparse.Namespace) -> None:
    """Becomes the command: its exit code is ours."""
    words = arguments.words[1:] if arguments.words[:1] == ["--"] else arguments.words
    if not words:
        raise Stop("Which command? For example: tools/cluster/cluster run kubectl get nodes")
    folders = [str(tool.place) for tool in programs.TOOLS]
    os.environ["PATH"] = ":".join([*folders, os.environ["PATH"]])
    os.environ["KUBECONFIG"] = str(state.kubeconfig)
    command = [*holder.entrance(state), *words]
    os.execvp(command[0], command)


def count_of_nodes(state: State) -> str:
    count = len(node_folders(state))
    return f"{count} node{'s' if count > 1 else ''}"


def node_folders(state: State) -> list[Path]:
    return sorted(path for path in state.folder.glob("node-*") if path.is_dir())
