"""The commands, a file each: they check their options, call `ptq.run`, and say what came of it.

Torch takes seconds to import: what needs it is imported when all options are checked.
"""

from ptq.cli.application import app, main
from ptq.cli.commands.compare import compare
from ptq.cli.commands.distill import distill
from ptq.cli.commands.inspect import inspect
from ptq.cli.commands.prune import prune
from ptq.cli.commands.quantize import quantize
from ptq.cli.commands.report import report
from ptq.cli.commands.synthesize import synthesize
from ptq.cli.commands.validate import validate

__all__ = ["app", "main"]

# In the order of the help page.
for command in (quantize, prune, distill, synthesize, validate, inspect, report, compare):
    app.command()(command)
