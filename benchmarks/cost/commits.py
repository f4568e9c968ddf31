"""Another commit of this repository, with the environment that its own `tools/setup.sh python` makes.

Its files go below `~/.cache/dub5-cost` (`XDG_CACHE_HOME`), not into the repository's list of work trees: nothing of
the repository changes, and a folder that is deleted is made again.
"""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

from testkit.places import CACHE, ROOT, alone


async def before() -> str:
    """Where this branch left `main`; on `main` itself, and without a `main`, the commit before this one."""
    head = await commit("HEAD")
    for main in ("main", "origin/main"):
        try:
            base = (await _git("merge-base", "HEAD", main)).decode().strip()
        except RuntimeError:
            continue
        if base != head:
            return base
    return await commit("HEAD^")


async def commit(name: str) -> str:
    """The full id of what git calls `name`. RuntimeError where there is none."""
    try:
        return (await _git("rev-parse", "--verify", "--quiet", f"{name}^{{commit}}")).decode().strip()
    except RuntimeError:
        raise RuntimeError(
            f"no commit {name} here; a shallow clone gets it by: git fetch --unshallow"
        ) from None


async def described() -> str:
    """The work tree's commit, shortened, and whether files differ from it."""
    changed = (await _git("status", "--porcelain", "--untracked-files=no")).strip()
    return (await commit("HEAD"))[:10] + (" with changes" if changed else "")


async def python(of: str) -> Path:
    """The interpreter of a commit's environment, made where it is not there yet: a minute. RuntimeError if it fails."""
    place = CACHE.with_name("dub5-cost")
    place.mkdir(parents=True, exist_ok=True)
    tree = place / of
    interpreter, complete = tree / ".venv" / "bin" / "python", tree / ".venv" / "complete"
    with alone(place / f"{of}.lock"):
        if not complete.exists():
            shutil.rmtree(tree, ignore_errors=True)
            tree.mkdir()
            archive = place / f"{of}.tar"
            await _git("archive", "--output", str(archive), of)
            await _run("tar", "--extract", "--file", str(archive), "--directory", str(tree))
            archive.unlink()
            await _run(str(tree / "tools" / "setup.sh"), "python")
            complete.touch()
    return interpreter


async def _git(*words: str) -> bytes:
    return await _run("git", "-C", str(ROOT), *words)


async def _run(*command: str) -> bytes:
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    printed, complained = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: {(complained or printed).decode()[-500:].strip()}")
    return printed
