from .qdq import export_float as export_float, export_qdq as export_qdq
from .validation import Validation as Validation, validate as validate
