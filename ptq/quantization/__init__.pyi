from .insertion import insert_quantizers as insert_quantizers
from .plan import make_plan as make_plan
from .quantized_model import QuantizedModel as QuantizedModel
from .spec import QuantPlan as QuantPlan, QuantSpec as QuantSpec
from .storage import load_quantized as load_quantized, save_quantized as save_quantized
