"""The command line: one file a subcommand - arguments in, one call out. Heavy imports wait until a command runs."""

from . import (
    ablate,
    audit,
    chat,
    compare,
    convert,
    dashboard,
    doctor,
    eval,
    generate,
    plot,
    push,
    recipes,
    report,
    run_samples,
    serve,
    train,
)
from .application import app
from .data import data_app
from .runs import runs_app
from .several_values import SeveralValuesCommand
from .spelling import Command, TrainingCommand

__all__ = ["app"]

# In the order of the help.
app.command("train", cls=TrainingCommand)(train.train)
app.command("compare", cls=TrainingCommand)(compare.compare)
app.command("ablate", cls=TrainingCommand)(ablate.ablate)
app.command("eval", cls=Command)(eval.evaluate)
app.command("audit", cls=Command)(audit.audit)
app.command("generate", cls=Command)(generate.generate)
app.command("chat", cls=Command)(chat.chat)
app.command("serve", cls=Command)(serve.serve)
runs_app.command("samples", cls=Command)(run_samples.samples)
app.add_typer(runs_app, name="runs")
app.add_typer(data_app, name="data")
app.command("plot", cls=SeveralValuesCommand)(plot.plot)
app.command("report", cls=SeveralValuesCommand)(report.report)
app.command("dashboard", cls=Command)(dashboard.dashboard)
app.command("push", cls=Command)(push.push)
app.command("convert", cls=Command)(convert.convert)
app.command("recipes", cls=Command)(recipes.recipes)
app.command("doctor", cls=TrainingCommand)(doctor.doctor)
