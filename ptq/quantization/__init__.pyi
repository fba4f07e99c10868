from .placement import QuantizedModel as QuantizedModel, insert_quantizers as insert_quantizers, make_plan as make_plan
from .spec import QuantPlan as QuantPlan, QuantSpec as QuantSpec
from .storage import load_quantized as load_quantized, save_quantized as save_quantized
