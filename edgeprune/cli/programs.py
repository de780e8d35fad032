"""How commands and addresses of programs are given."""

from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from runtime_tests.programs import Program


class ProgramType(click.ParamType):
    """A program of `runtime_tests.programs`."""

    name = "CMD|URL"

    def convert(self, value: Any, param: Any, ctx: Any) -> "Program":
        """See `runtime_tests.programs.program`."""
        from edgeprune.support.extras import need
        from runtime_tests.programs import program

        need("httpx")
        return program(value)
