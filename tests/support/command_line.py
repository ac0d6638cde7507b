"""The command line, in this process."""

from typer.testing import CliRunner

from scenarios import cli


def adsim(*arguments):
    """Runs `adsim`: (exit status, standard output, standard error); without worker processes."""
    runner = CliRunner(env={"ADSIM_JOBS": "1"})
    result = runner.invoke(cli.app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr
