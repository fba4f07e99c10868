"""Pages from templates: Markdown as it is, HTML with all text escaped but the drawings of `ptq.reporting.html.plots`."""

from collections.abc import Mapping
from typing import Any

__all__ = ["render"]


def render(template: str, content: Mapping[str, Any]) -> str:
    """Fill a template of ptq/reporting/templates.

    Args:
        template: name of its file.
        content: name in the template -> value; all must be there.
    """
    import jinja2  # takes a tenth of a second, which --help does not have

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("ptq.reporting"),
        autoescape=lambda name: name is not None and name.endswith(".html.j2"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(template).render(content)
