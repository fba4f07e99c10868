from .blocks import split as split
from .preparation import GraphModel as GraphModel, prepare as prepare
