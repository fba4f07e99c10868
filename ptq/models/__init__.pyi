from .model import Model as Model, as_model as as_model, load_model as load_model
