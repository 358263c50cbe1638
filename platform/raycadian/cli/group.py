"""Groups of verbs: errors in one message, and verbs whose modules are imported when they are called."""

import errno
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import click

from raycadian.cli.options import WRITTEN

_NOT_WRITTEN = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.ENOSPC, errno.EDQUOT}


class Verbs(click.Group):
    """User errors become one message and exit status 2; Ctrl-C leaves what was there intact and exits 130."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (ValueError, OSError) as error:
            click.echo(f"raycadian: {printable(_in_words(error, ctx))}", err=True)
            ctx.exit(2)
        except (MemoryError, RuntimeError) as error:
            if not _is_of_memory(error):
                raise
            click.echo(f"raycadian: out of memory: {_first_line(error)}; {_LESS}", err=True)
            ctx.exit(2)
        except KeyboardInterrupt:
            click.echo("raycadian: interrupted; nothing half-written is listed; --resume goes on", err=True)
            ctx.exit(130)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)  # in the order of work, not of the alphabet


def printable(text: str) -> str:
    """What a message quotes of a file or a cluster, without what a terminal would obey; lines stay lines."""
    return "".join(c if c.isprintable() or c in "\n\t" or (c.isspace() and c > "\x9f") else _escaped(c) for c in text)


def _escaped(c: str) -> str:
    return c.encode("unicode_escape").decode("ascii")


_LESS = "do less at once: a smaller training.batch_size, fewer workers or trials, fewer or shorter files"
_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")  # as PyTorch says it, of CPU and GPU


def _is_of_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError) or any(words in str(error) for words in _OF_MEMORY)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _in_words(error: ValueError | OSError, ctx: click.Context) -> str:
    """Where a verb can't write, with the option that names another place."""
    if not isinstance(error, OSError) or not error.filename or not error.strerror:
        return str(error)
    if error.errno not in _NOT_WRITTEN:
        return f"{str(error.filename)[:200]}: {error.strerror}"
    at = Path(os.path.abspath(error.filename))
    folders = {option: Path(os.path.abspath(path)) for option, path in ctx.meta.get(WRITTEN, {}).items()}
    options = [option for option, folder in folders.items() if at.is_relative_to(folder) or folder.is_relative_to(at)]
    if not options:
        return str(error)
    option = max(options, key=lambda option: len(folders[option].parts))
    return f"can't write {at}: {error.strerror}; name a place that can be written: {option} PATH"


Load = Callable[[], Mapping[str, click.Command]]


class Verb(NamedTuple):
    load: Load
    """Imports the verb's module; its verbs by name."""
    summary: str
    """The first sentence of the verb's own help: the list of verbs shows it without importing anything."""

    def short(self, limit: int) -> str:
        return click.Command(None, help=self.summary).get_short_help_str(limit)


class LazyVerbs(Verbs):
    """The verbs of a table. One is imported when it is called or its help is asked for."""

    def __init__(self, *, verbs: Mapping[str, Verb], **options: Any) -> None:
        super().__init__(**options)
        self.verbs = verbs

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.verbs)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        verb = self.verbs.get(cmd_name)
        return verb and verb.load()[cmd_name]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """As click does, from the table in place of the commands."""
        limit = formatter.width - 6 - max(map(len, self.verbs))
        with formatter.section("Commands"):
            formatter.write_dl([(name, verb.short(limit)) for name, verb in self.verbs.items()])
