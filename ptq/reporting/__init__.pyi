from .comparison import compare as compare
from .html import write_html_report as write_html_report
from .report import read_report as read_report, write_report as write_report
