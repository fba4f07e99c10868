from .datasets import EvalSet as EvalSet, load_eval as load_eval, load_images as load_images
from .preprocess import Preprocess as Preprocess
