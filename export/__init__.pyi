from .qdq import export_float as export_float, export_qdq as export_qdq
from .results import Validation as Validation
from .validation import validate as validate
