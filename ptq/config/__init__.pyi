from .recipe_file import read_recipe as read_recipe, write_recipe as write_recipe
from .settings import Settings as Settings
