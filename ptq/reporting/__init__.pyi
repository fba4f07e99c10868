from .comparison import compare as compare
from .html.page import write_html_report as write_html_report
from .inspection import Inspection as Inspection
from .report import Report as Report
from .report_files import read_report as read_report, write_report as write_report
