from .blocks import Block as Block, split as split
from .preparation import GraphModel as GraphModel, prepare as prepare
