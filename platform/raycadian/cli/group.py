"""Groups of verbs: errors in one message, and verbs whose modules are imported when they are called."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import click


class Verbs(click.Group):
    """User errors become one message and exit status 2; Ctrl-C leaves what was there intact and exits 130."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (ValueError, OSError) as error:
            click.echo(f"raycadian: {error}", err=True)
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


_LESS = "do less at once: a smaller training.batch_size, fewer workers or trials, fewer or shorter files"
_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")  # as PyTorch says it, of CPU and GPU


def _is_of_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError) or any(words in str(error) for words in _OF_MEMORY)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


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
